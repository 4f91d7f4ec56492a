"""A run by its folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from builders import resnet, term, wrapper_config, write_config
from training_runs import write_checkpoint

from mmseg_kd.errors import CheckpointError, ConfigError, ManyErrors
from mmseg_kd.runs.work_dir import (
    WorkDir,
    find_checkpoint,
    find_config,
    read_work_dir,
    split_title,
    title_of,
)


def run_in(folder: Path, *losses: str) -> Path:
    """A folder as a distillation with these losses leaves it."""
    folder.mkdir()
    model = wrapper_config(resnet(), resnet(8), 'a.pth', *(term(loss=loss) for loss in losses))
    write_config(folder, model, folder / 'data', 'cgd.py')
    write_checkpoint(folder / 'iter_20.pth')
    return folder


def test_a_run_has_config_and_checkpoint(tmp_path: Path) -> None:
    folder = run_in(tmp_path / 'run', 'CGDLoss', 'KLLoss', 'CGDLoss')
    expected = WorkDir(folder, folder / 'cgd.py', folder / 'iter_20.pth')
    assert read_work_dir(str(folder)) == expected


def test_titles_say_the_method() -> None:
    assert title_of(wrapper_config({}, {}, 'a.pth')) == 'baseline'
    assert title_of(wrapper_config({}, {}, 'a.pth', term(loss='CGDLoss'))) == 'CGD'
    assert title_of(wrapper_config({}, {}, 'a.pth', dict(recipe='cwd'))) == 'cwd'
    assert title_of(resnet()) is None
    assert title_of(None) is None


def test_a_title_comes_before_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert split_title('work_dirs/a') == (None, 'work_dirs/a')
    assert split_title(' any words =work_dirs/lr=0.1') == ('any words', 'work_dirs/lr=0.1')
    # Folders with the sign in their names, whether they are there or not.
    assert split_title('work_dirs/lr=0.1') == (None, 'work_dirs/lr=0.1')
    monkeypatch.chdir(tmp_path)
    assert split_title('lr=0.1') == ('lr', '0.1')
    (tmp_path / 'lr=0.1').mkdir()
    assert split_title('lr=0.1') == (None, 'lr=0.1')
    for text in ('a=', '=a', ' =a'):
        with pytest.raises(ConfigError, match=r'expected \[TITLE=\]WORK_DIR'):
            split_title(text)


def test_the_best_checkpoint_comes_before_the_newest(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / 'iter_100.pth')
    assert find_checkpoint(tmp_path).name == 'iter_100.pth'
    write_checkpoint(tmp_path / 'iter_120.pth')
    assert find_checkpoint(tmp_path).name == 'iter_120.pth'
    write_checkpoint(tmp_path / 'best_aAcc_iter_90.pth')
    assert find_checkpoint(tmp_path).name == 'best_aAcc_iter_90.pth'
    write_checkpoint(tmp_path / 'best_mIoU_iter_80.pth')
    write_checkpoint(tmp_path / 'student_best.pth')
    assert find_checkpoint(tmp_path).name == 'best_mIoU_iter_80.pth'
    (tmp_path / 'best_mIoU_iter_80.pth').write_bytes(b'PK')
    assert find_checkpoint(tmp_path).name == 'best_aAcc_iter_90.pth'


def test_checkpoints_that_lie_elsewhere_are_found(tmp_path: Path) -> None:
    elsewhere = write_checkpoint(tmp_path / 'disk' / 'iter_9.pth')
    folder = tmp_path / 'run'
    folder.mkdir()
    (folder / 'last_checkpoint').write_text(str(elsewhere), encoding='utf-8')
    assert find_checkpoint(folder) == elsewhere


def test_no_whole_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match='there is no checkpoint in it'):
        find_checkpoint(tmp_path)
    write_checkpoint(tmp_path / 'iter_1.pth').write_bytes(b'PK')
    with pytest.raises(CheckpointError, match='none of its checkpoints is whole'):
        find_checkpoint(tmp_path)


def test_the_config_of_the_newest_run(tmp_path: Path) -> None:
    folder = run_in(tmp_path / 'run')
    old = write_config(folder, resnet(), folder / 'data', 'z.py')
    os.utime(old, (0, 0))
    # What mmseg-kd export writes beside the checkpoint.
    (folder / 'student.py').write_text('model = dict()\n', encoding='utf-8')
    assert find_config(folder).name == 'cgd.py'


def test_what_is_missing_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'absent: there is no such folder'):
        read_work_dir(tmp_path / 'absent')
    with pytest.raises(ManyErrors) as caught:
        read_work_dir(tmp_path)
    text = str(caught.value)
    assert 'there is no config of a run in it' in text
    assert 'there is no checkpoint in it' in text
