"""The quickstart in a shortened form: everything runs, the figures are whatever they are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from mmseg_kd.cli.quickstart import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_shortened_quickstart(tmp_path: Path) -> None:
    command = [sys.executable, '-m', 'mmseg_kd', 'quickstart', '--iters', '4']
    command += ['--train-images', '8', '--val-images', '3']
    command += ['--work-dir', str(tmp_path / 'work'), '--data-root', str(tmp_path / 'scenes')]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
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
    assert table in done.stdout + '\n'
    with Image.open(tmp_path / 'work' / 'comparison.png') as figure:
        assert figure.width > figure.height > 500
    assert 'Traceback' not in done.stderr


def test_other_scenes_in_the_folder_are_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'notes.txt').write_text('mine')
    code = main(['--data-root', str(tmp_path), '--work-dir', str(tmp_path / 'work')])
    assert code == 1
    assert str(tmp_path) in capsys.readouterr().err
    assert (tmp_path / 'notes.txt').read_text() == 'mine'
