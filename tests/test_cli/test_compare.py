"""What `mmseg-kd compare` prints beside what its runs do."""

from __future__ import annotations

import json
import math
import os
import re
import sys
import time
from pathlib import Path

import pytest

from mmseg_kd.checkpoints.save import atomic_write
from mmseg_kd.cli.compare import FRAME, fitting, main, show_results, show_status, status_of
from mmseg_kd.comparison import queue
from mmseg_kd.comparison.queue import Outcome
from mmseg_kd.runs import comparison as runs_of
from mmseg_kd.runs.comparison import RUNNING, Comparison, Run, at_work, is_at_work, state_of

PLAN = """
model = dict(type='DistillationWrapper', student=dict(type='A'), distillation=[])
train_dataloader = val_dataloader = test_dataloader = dict(batch_size=1)
test_evaluator = dict(type='IoUMetric')
train_cfg = dict(max_iters=100, val_interval=50)
val_cfg = test_cfg = dict()
experiments = {'alone': dict(), 'kl': dict()}
comparison = dict(baseline='alone', seeds=1)
"""


def write_test(run: Run, miou: float) -> None:
    with atomic_write(run.folder / 'test' / 'now' / 'now.json') as unfinished:
        unfinished.write_text(json.dumps(dict(mIoU=miou)), encoding='utf-8')


def comparison(folder: Path, seeds: int = 1) -> Comparison:
    methods = dict(alone=100, kl=100)
    found = Comparison(folder, 'plan.py', 'alone', methods, [*range(seeds)], has_teacher=False)
    folder.mkdir(exist_ok=True)
    found.write()
    return found


def test_what_is_found_is_printed_where_it_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, work = tmp_path / 'plan.py', tmp_path / 'work'
    plan.write_text(PLAN, encoding='utf-8')
    alone, kl = comparison(work).runs()
    write_test(alone, 50.0)
    (work / 'results.json').mkdir()  # takes the place of a full disk
    monkeypatch.setattr(queue, 'run_all', lambda *_: Outcome(failed=[kl]))
    assert main([str(plan), '--work-dir', str(work)]) == 1
    out, err = capsys.readouterr()
    assert re.search(r'\| alone +\| +1 \| 50\.00 \|', out)
    assert 'Failed: kl, seed 0; the same command tries again.' in out
    assert 'results.json: cannot be written' in err


def test_results_that_are_no_numbers_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for run in comparison(tmp_path).runs():
        write_test(run, math.nan)
    show_results(tmp_path)
    out = capsys.readouterr().out
    assert '**Left out, as their mIoU is no number: alone, seed 0; kl, seed 0.**' in out
    assert '|' not in out and not (tmp_path / 'results.md').exists()


def test_rows_that_fit() -> None:
    states = ['done'] * 5 + ['running', 'waiting', 'failed', 'stopped', 'waiting']
    body = [(str(number), state, '') for number, state in enumerate(states)]
    assert fitting(body, 1, 10) == body
    # Those at work or in trouble, then the others in their order.
    assert [row[0] for row in fitting(body, 1, 6)] == ['5', '7', '8', '0', '1', '3 done, 2 waiting']
    assert fitting(body, 1, 2) == [
        ('5', 'running', ''),
        ('1 failed, 1 stopped, 5 done, 2 waiting', '', ''),
    ]
    assert len(fitting(body, 1, 0)) == 1


def test_a_live_table_shows_what_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    *done, last, latest = comparison(tmp_path, seeds=20).runs()
    for run in done:
        write_test(run, 50.0)
    for run in (last, latest):
        run.folder.mkdir(parents=True)
        (run.folder / RUNNING).touch()
    looks: list[float] = []
    monkeypatch.setattr(time, 'sleep', looks.append)
    monkeypatch.setattr(runs_of, 'is_at_work', lambda _: not looks)
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: True)
    monkeypatch.setenv('TERM', 'xterm')
    monkeypatch.setenv('COLUMNS', '80')
    monkeypatch.setenv('LINES', '12')
    show_status(tmp_path, status_of)
    out = re.sub(r'\x1b\[[^A-Za-z]*[A-Za-z]', '', capsys.readouterr().out)
    first, _, others = out.partition('└')
    rows = [line.split('│')[1].strip() for line in first.splitlines() if '│' in line]
    assert rows == [
        'alone, seed 19',
        'kl, seed 19',
        *(f'{name}, seed {seed}' for seed in (0, 1) for name in ('alone', 'kl')),
        'alone, seed 2',
        '33 done',
    ]
    assert len(rows) == 12 - FRAME
    # The last one stays, with all of them.
    assert others.rpartition('┏')[2].count(', seed ') == 40


def test_who_may_not_write_there_may_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = comparison(tmp_path).runs()[0]
    run.folder.mkdir(parents=True)
    (run.folder / RUNNING).touch()

    def read_alone(path: str, flags: int, *args: int, **kwargs: int) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise PermissionError(13, 'Permission denied', path)
        return opened(path, flags, *args, **kwargs)

    opened = os.open
    with at_work(tmp_path):
        monkeypatch.setattr(os, 'open', read_alone)
        assert is_at_work(tmp_path)
        assert state_of(run, is_at_work(tmp_path)).name == 'running'
    assert not is_at_work(tmp_path)
    assert [row[1] for row in status_of(tmp_path)[1]] == ['waiting', 'waiting']
