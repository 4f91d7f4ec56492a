"""The quickstart in a shortened form: everything runs, the figures are whatever they are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image
from training_runs import train_to_the_end

from mmseg_kd.cli.main import main
from mmseg_kd.engine import quickstart


@pytest.mark.slow
def test_shortened_quickstart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_step, kinds = quickstart.run_step, set()

    def run_or_fork(title: str, command: Sequence[str], log: Path) -> None:
        """The first training and evaluation are new processes; the others are forks."""
        kind, *_ = arguments = command[3:]
        if kind in kinds:
            log.parent.mkdir(parents=True, exist_ok=True)
            train_to_the_end(arguments, log, main=main)
        else:
            run_step(title, command, log)
            kinds.add(kind)

    monkeypatch.setattr(quickstart, 'run_step', run_or_fork)
    command = ['quickstart', '--iters', '4', '--train-images', '8', '--val-images', '3']
    command += ['--work-dir', str(tmp_path / 'work'), '--data-root', str(tmp_path / 'scenes')]
    assert main(command) == 0
    assert kinds == {'train', 'test'}
    out, err = capsys.readouterr()
    rows = json.loads((tmp_path / 'work' / 'results.json').read_text())
    assert [row['network'] for row in rows] == ['teacher', 'student', 'student + CWD']
    teacher, student, distilled = rows
    assert teacher['params'] > 2 * student['params']
    assert (student['params'], student['flops']) == (distilled['params'], distilled['flops'])
    assert all(0 <= row['mIoU'] <= 100 for row in rows)
    # With its weights as they are shipped, on other scenes than it has seen.
    assert teacher['mIoU'] > 30 and teacher['seconds_per_step'] is None
    assert all(row['seconds_per_step'] > 0 for row in (student, distilled))
    table = (tmp_path / 'work' / 'results.md').read_text()
    assert table in out + '\n'
    with Image.open(tmp_path / 'work' / 'comparison.png') as figure:
        assert figure.width > figure.height > 500
    assert 'Traceback' not in err


def test_other_scenes_in_the_folder_are_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'notes.txt').write_text('mine')
    code = main(['quickstart', '--data-root', str(tmp_path), '--work-dir', str(tmp_path / 'work')])
    assert code == 1
    assert str(tmp_path) in capsys.readouterr().err
    assert (tmp_path / 'notes.txt').read_text() == 'mine'


def test_scenes_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / 'file').touch()
    root = tmp_path / 'file' / 'scenes'
    assert main(['quickstart', '--data-root', str(root), '--work-dir', str(tmp_path / 'w')]) == 1
    assert f'{root}: cannot be written to: ' in capsys.readouterr().err
