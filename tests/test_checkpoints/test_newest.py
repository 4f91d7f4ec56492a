from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from training_runs import write_checkpoint

from mmseg_kd.checkpoints import newest
from mmseg_kd.checkpoints.newest import newest_intact
from mmseg_kd.checkpoints.seal import saved_at
from mmseg_kd.errors import CheckpointError

TEMPLATE = 'iter_{}.pth'


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines that a search logs."""
    lines: list[str] = []
    monkeypatch.setattr(newest, 'print_log', lambda line, **_: lines.append(line))
    return lines


def test_an_empty_folder_has_none(tmp_path: Path) -> None:
    assert newest_intact(tmp_path, TEMPLATE) is None
    for name in ('best_mIoU_iter_3.pth', 'iter_3.pth.tmp', 'epoch_3.pth', 'iter_.pth'):
        write_checkpoint(tmp_path / name)
    (tmp_path / 'iter_7.pth').mkdir()
    assert newest_intact(tmp_path, TEMPLATE) is None


def test_the_last_written_wins_whatever_its_number(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / 'iter_900.pth')
    new = write_checkpoint(tmp_path / 'iter_20.pth')
    assert newest_intact(tmp_path, TEMPLATE) == new
    # Times of files are those of a copy.
    os.utime(new, (0, 0))
    assert newest_intact(tmp_path, TEMPLATE) == new
    assert newest_intact(tmp_path, TEMPLATE, since=saved_at(new)) == new
    assert newest_intact(tmp_path, TEMPLATE, since=saved_at(new) + 1) is None


def test_torn_and_altered_ones_are_skipped_with_a_line_each(tmp_path: Path, log: list[str]) -> None:
    paths = [write_checkpoint(tmp_path / f'iter_{number}.pth') for number in (10, 20, 30)]
    whole = [path.read_bytes() for path in paths]
    paths[2].write_bytes(whole[2][:-700])
    paths[1].write_bytes(whole[1][:-1] + b'x')
    assert newest_intact(tmp_path, TEMPLATE) == paths[0]
    assert len(log) == 2
    assert any('iter_30.pth: torn' in line for line in log)
    assert any('iter_20.pth: ' in line and 'altered' in line for line in log)
    paths[0].write_bytes(b'')
    with pytest.raises(CheckpointError, match='none of its 3 checkpoints is whole'):
        newest_intact(tmp_path, TEMPLATE)


def test_without_seals_times_of_files_and_the_pointer_decide(tmp_path: Path) -> None:
    # 900 is of a run before, 30 came last, 40 is what a kill left of the next.
    names = ('iter_900.pth', 'iter_20.pth', 'iter_30.pth', 'iter_40.pth')
    paths = [write_checkpoint(tmp_path / name, sealed=False) for name in names]
    for second, path in enumerate(paths):
        os.utime(path, (second, second))
    paths[3].write_bytes(paths[3].read_bytes()[:500])
    assert newest_intact(tmp_path, TEMPLATE) == paths[2]
    # In a copy all times are new, in the order of the names.
    pointer = tmp_path / 'last_checkpoint'
    pointer.write_text('elsewhere/iter_30.pth\n', encoding='utf-8')
    paths[0].unlink()
    for second, path in enumerate((paths[2], paths[3], paths[1])):
        os.utime(path, (second, second))
    assert newest_intact(tmp_path, TEMPLATE) == paths[1]
    assert newest_intact(tmp_path, TEMPLATE, pointer) == paths[2]


def test_seals_and_times_of_files_are_compared(tmp_path: Path) -> None:
    old = write_checkpoint(tmp_path / 'iter_50.pth', sealed=False)
    os.utime(old, (1, 1))
    sealed = write_checkpoint(tmp_path / 'iter_6.pth')
    assert newest_intact(tmp_path, TEMPLATE) == sealed
    later = saved_at(sealed) + 10**9
    os.utime(old, ns=(later, later))
    assert newest_intact(tmp_path, TEMPLATE) == old


def test_a_pointer_to_another_folder_serves_where_there_is_nothing_else(tmp_path: Path) -> None:
    here, there = tmp_path / 'here', tmp_path / 'there'
    for folder in (here, there):
        folder.mkdir()
    other = write_checkpoint(there / 'other.pth', sealed=False)
    pointer = here / 'last_checkpoint'
    pointer.write_text(str(other), encoding='utf-8')
    assert newest_intact(here, TEMPLATE, pointer) == other
    own = write_checkpoint(here / 'iter_1.pth', sealed=False)
    assert newest_intact(here, TEMPLATE, pointer) == own
    pointer.write_bytes(b'\0\xff torn')
    assert newest_intact(here, TEMPLATE, pointer) == own


def test_checkpoints_of_epochs_and_within_them(tmp_path: Path) -> None:
    for name in ('epoch_2.pth', 'epoch_2_iter_250.pth'):
        path = write_checkpoint(tmp_path / name)
        assert newest_intact(tmp_path, 'epoch_{}.pth') == path
    for path in tmp_path.iterdir():
        write_checkpoint(path, sealed=False)
        os.utime(path, (1, 1))
    assert newest_intact(tmp_path, 'epoch_{}.pth') == tmp_path / 'epoch_2_iter_250.pth'


def test_a_copy_of_the_folder_has_the_same_newest(tmp_path: Path) -> None:
    for number in (8, 10, 9):
        write_checkpoint(tmp_path / 'run' / f'iter_{number}.pth')
    shutil.copytree(tmp_path / 'run', tmp_path / 'copy', copy_function=shutil.copyfile)
    assert newest_intact(tmp_path / 'copy', TEMPLATE) == tmp_path / 'copy' / 'iter_9.pth'
    assert re.fullmatch(r'\d{19}', str(saved_at(tmp_path / 'copy' / 'iter_9.pth')))
