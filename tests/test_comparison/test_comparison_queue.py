"""Runs in their places: what cannot begin, what an error leaves, what a log ends with."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from mmseg_kd.comparison import queue
from mmseg_kd.comparison.process import last_words
from mmseg_kd.comparison.queue import run_all
from mmseg_kd.runs.comparison import FAILED, RUNNING, Run

# Writes what a test of a run leaves.
TESTED = 'mkdir -p test/now && echo \'{"mIoU": 50.0}\' > test/now/now.json'


class Shell:
    """Takes the place of `process.start`: a command of a shell in the run's folder."""

    def __init__(self, command: str) -> None:
        self.command = command
        self.processes: list[subprocess.Popen[bytes]] = []

    def __call__(
        self, command: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            ['sh', '-c', self.command], cwd=log.parent, stdin=subprocess.PIPE, env=environment
        )
        self.processes.append(process)
        return process


def shell(monkeypatch: pytest.MonkeyPatch, command: str) -> Shell:
    started = Shell(command)
    monkeypatch.setattr(queue, 'start', started)
    monkeypatch.setattr(queue, 'POLL_S', 0.01)
    return started


def test_a_run_that_cannot_begin_has_failed_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shell(monkeypatch, TESTED)
    (tmp_path / 'taken').touch()
    taken, free = (Run(name, 0, tmp_path / name / 'seed0') for name in ('taken', 'free'))
    outcome = run_all([taken, free], [{}])
    assert (outcome.failed, outcome.stopped) == ([taken], False)
    assert free.metrics() == dict(mIoU=50.0)
    out = capsys.readouterr().out
    assert f"taken, seed 0: failed before its begin: [Errno 20] Not a directory: '{tmp_path}" in out
    assert 'free, seed 0: mIoU 50.00' in out


def test_a_process_that_cannot_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise BlockingIOError(11, 'Resource temporarily unavailable')

    monkeypatch.setattr(queue, 'start', refuse)
    runs = [Run(name, 0, tmp_path / name) for name in 'ab']
    assert run_all(runs, [{}]).failed == runs
    for run in runs:
        assert (run.folder / FAILED).exists() and not (run.folder / RUNNING).exists()


def test_an_error_leaves_no_process_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = shell(monkeypatch, 'exec sleep 60')

    def is_hopeless(run: Run) -> bool:
        if run.method == 'b':
            raise RuntimeError('out of order')
        return False

    with pytest.raises(RuntimeError, match='out of order'):
        run_all([Run(name, 0, tmp_path / name) for name in 'ab'], [{}, {}], is_hopeless)
    try:
        assert [one.returncode for one in started.processes] == [-signal.SIGTERM] * 2
    finally:
        for one in started.processes:
            one.kill()
            one.wait()


@pytest.mark.parametrize(
    ('log', 'words'),
    [
        (
            'Traceback (most recent call last):\n'
            '  File "x.py", line 1, in f\n'
            'torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB\n'
            'resource_tracker.py:254: UserWarning: There appear to be 3 leaked semaphore objects\n'
            "  warnings.warn('resource_tracker: There appear to be %d '\n",
            'torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB',
        ),
        (
            'RuntimeError: CUDA error: device-side assert triggered\n'
            'Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.\n',
            'RuntimeError: CUDA error: device-side assert triggered',
        ),
        ('Traceback (most recent call last):\nKeyboardInterrupt\n\n', 'KeyboardInterrupt'),
        ('ValueError: caught\nerror: two\nlines\n', 'two\nlines'),
        ('Segmentation fault (core dumped)\n', 'Segmentation fault (core dumped)'),
        ('', 'no word'),
    ],
)
def test_last_words(tmp_path: Path, log: str, words: str) -> None:
    path = tmp_path / 'run.log'
    path.write_text(log, encoding='utf-8')
    assert last_words(path) == words
