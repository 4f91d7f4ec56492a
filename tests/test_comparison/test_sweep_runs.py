"""Sweeps that run: to their end, stopped and resumed, pruned."""

from __future__ import annotations

import argparse
import ast
import csv
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from builders import same_tensors
from comparison_project import fork_runs
from run_logs import train_line, val_line, write_start
from sweep_project import sweeping, write_sweep
from training_runs import Training, tensors

from mmseg_kd.cli import sweep as command
from mmseg_kd.cli.common import Options
from mmseg_kd.comparison import queue, trials
from mmseg_kd.comparison.sweep import SweepPlan, begin_sweep, read_sweep_plan
from mmseg_kd.comparison.trials import _grid_trials
from mmseg_kd.runs.sweep import Trial, read_sweep
from mmseg_kd.runs.sweep_results import (
    as_csv,
    as_options,
    collect_trials,
    short_names,
    table_of,
)

# Values that a command line can have, and those that it would make others of.
WORDS = [1, 1.0, 1e-5, True, None, 'a', '', "it's", '(', [1, None], [[1, 2], [3, 4]], ['a.b'], []]
NO_WORDS = ['1', 'None', 'true', 'a,b', 'x y', "'a'", '[a]', ['a b'], ['1', 2]]

# A learning rate that the optimiser refuses, which shows in the run alone.
LR = "sweep['space'] = {'optim_wrapper.optimizer.lr': [0.01, -1.0, 0.1]}\n"


@pytest.fixture(scope='module')
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, str]:
    """A plan, its work dir, and what the command printed; a trial of it fails."""
    folder = tmp_path_factory.mktemp('sweep')
    plan = write_sweep(folder, LR)
    process = sweeping(plan, folder / 'work')
    assert process.wait() == 1, process.output()
    return plan, folder / 'work', process.output()


def test_a_grid(swept: tuple[str, Path, str]) -> None:
    _, work, out = swept
    assert '3 trials, all combinations' in out
    assert re.search(r'trial001: failed with exit code 1: .*[Ii]nvalid learning rate: -1.0', out)
    assert 'Failed: trial001; the same command tries again.' in out
    results = json.loads((work / 'results.json').read_text(encoding='utf-8'))
    first, second, last = results['trials']
    assert first['value'] >= second['value'] > 0
    assert (first['state'], second['state'], last['state']) == ('done', 'done', 'failed')
    assert last['value'] is None and last['options'] == {'optim_wrapper.optimizer.lr': -1.0}
    assert (work / 'results.md').read_text(encoding='utf-8') in out + '\n'
    lr = first['options']['optim_wrapper.optimizer.lr']
    assert f'--cfg-options optim_wrapper.optimizer.lr={lr}\n' in out
    assert 'The best of 2 trials on one seed is optimistic' in out
    assert f'mmseg-kd compare {work}/best.py' in out
    with (work / 'results.csv').open(encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]['optim_wrapper.optimizer.lr']) == lr
    # A trial is an ordinary run, whose test split was not looked at.
    assert (work / 'trial000' / 'seed0' / 'iter_4.pth').exists()
    assert not list(work.glob('*/*/test'))


def test_status_has_the_best_first(
    swept: tuple[str, Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    plan, work, _ = swept
    assert command.main([plan, '--work-dir', str(work), '--status']) == 0
    head, _, *lines = capsys.readouterr().out.splitlines()
    assert re.findall(r'\w+', head) == ['trial', 'mIoU', 'lr', 'iterations', 'state']
    assert [line.split('|')[-2].strip() for line in lines] == ['done', 'done', 'failed']


def test_what_is_done_is_kept(swept: tuple[str, Path, str]) -> None:
    plan, work, _ = swept
    kept = {path: path.stat().st_mtime_ns for path in work.glob('*/*/iter_4.pth')}
    process = sweeping(plan, work)
    assert process.wait() == 1
    assert re.findall('(.*): begins', process.output()) == ['trial001']
    assert kept == {path: path.stat().st_mtime_ns for path in kept}


def test_stopped_and_resumed(swept: tuple[str, Path, str], tmp_path: Path) -> None:
    plan, whole, _ = swept
    work = tmp_path / 'work'
    process = sweeping(plan, work, '--jobs', '1')
    deadline = time.monotonic() + 60
    while not list(work.glob('trial000/seed0/iter_2.pth')):
        assert time.monotonic() < deadline, process.output()
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait() == 75, process.output()
    assert 'trial000: stopped, can be resumed' in process.output()
    process = sweeping(plan, work)
    assert process.wait() == 1, process.output()
    ends = [folder / 'trial000' / 'seed0' / 'iter_4.pth' for folder in (work, whole)]
    assert same_tensors(*map(tensors, ends))
    values = [
        {str(trial): state.value for trial, state in collect_trials(read_sweep(folder)).rows}
        for folder in (work, whole)
    ]
    assert values[0] == values[1]


def test_what_is_found_is_printed_where_it_cannot_be_written(
    swept: tuple[str, Path, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan, whole, _ = swept
    work = tmp_path / 'work'
    shutil.copytree(whole, work)
    (work / 'results.json').unlink()
    (work / 'results.json').mkdir()  # takes the place of a full disk
    failed = queue.Outcome(failed=[read_sweep(work).trials()[1]])
    monkeypatch.setattr(trials, 'run_sweep', lambda *_: failed)
    assert command.main([plan, '--work-dir', str(work)]) == 1
    out, err = capsys.readouterr()
    assert '| trial000 |' in out
    assert 'Failed: trial001; the same command tries again.' in out
    assert 'results.json: cannot be written' in err


def prune_the_second() -> None:
    import optuna

    fork_runs()
    optuna.Trial.should_prune = lambda self: self.number == 1


def test_a_pruned_trial_ends_and_the_rest_goes_on(tmp_path: Path) -> None:
    pytest.importorskip('optuna')
    extra = (
        "sweep.update(space={'optim_wrapper.optimizer.lr': dict(low=1e-3, high=1.0, log=True)},"
        'trials=3)\ntrain_cfg.update(max_iters=24, val_interval=6)\n'
    )
    plan, work = write_sweep(tmp_path, extra), tmp_path / 'work'
    options = [plan, '--work-dir', str(work), '--jobs', '1']
    log = tmp_path / 'sweep.log'
    process = Training(options, log, prepare=prune_the_second, main=command.main)
    assert process.wait() == 0, process.output()
    out = process.output()
    assert 'trial001: pruned' in out and '3 trials, chosen by Optuna' in out
    rows = collect_trials(read_sweep(work)).rows
    assert [state.name for _, state in rows] == ['done', 'done', 'pruned']
    assert 6 <= rows[-1][1].iteration < 24
    # It was told to stop as any run is: with a checkpoint.
    assert list((work / 'trial001' / 'seed0').glob('iter_*.pth'))


def log_of(trial: Trial, values: dict[int, float]) -> None:
    lines = [
        line for i, value in values.items() for line in (train_line(i, 1.0), val_line(i, value))
    ]
    write_start(trial.folder, f'2026010{len(values)}_000000', lines)


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes what chooses trials; each call is a start of the command. Trials do not run."""
    pytest.importorskip('optuna')
    from mmseg_kd.comparison.search import Search

    extra = (
        "sweep['space']['model.distillation.0.loss.tau'] = dict(low=1.0, high=8.0, log=True)\n"
        "sweep['space']['optim_wrapper.optimizer.momentum'] = dict(low=0.0, high=0.8, step=0.4)\n"
        "sweep['trials'] = 1\n"
    )
    plan = read_sweep_plan(write_sweep(tmp_path, extra))
    yield lambda name, count: Search(replace(plan, count=count), begin_sweep(plan, tmp_path / name))


def test_a_search_that_goes_on_chooses_as_one_that_never_stopped(study: Any) -> None:
    chosen: dict[str, list[Any]] = {'whole': [], 'stopped': []}
    for trial in study('whole', 3).trials():
        chosen['whole'].append(trial.options)
        log_of(trial, {2: 10.0, 4: 20.0 + trial.options['model.distillation.0.loss.tau']})
    assert len(chosen['whole']) == 3
    while len(chosen['stopped']) < 3:
        # A new start for each; what the one before began is not lost.
        trial = next(study('stopped', 3).trials())
        if trial.number == 0:
            again = next(study('stopped', 3).trials())
            assert (again.number, again.options) == (0, trial.options)
        chosen['stopped'].append(trial.options)
        log_of(trial, {2: 10.0, 4: 20.0 + trial.options['model.distillation.0.loss.tau']})
    assert chosen['stopped'] == chosen['whole']
    assert next(study('stopped', 3).trials(), None) is None
    for options in chosen['whole']:
        assert options['model.distillation.0.weight'] in (1.0, 3.0)
        assert 1 <= options['model.distillation.0.loss.tau'] <= 8
        assert options['optim_wrapper.optimizer.momentum'] in (0.0, 0.4, 0.8)


def test_a_stop_does_not_change_what_is_tried_next(
    study: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped_at_once(*_: object) -> subprocess.Popen[bytes]:
        os.kill(os.getpid(), signal.SIGTERM)
        return subprocess.Popen(['sleep', '60'], stdin=subprocess.PIPE)

    monkeypatch.setattr(queue, 'start', stopped_at_once)
    monkeypatch.setattr(queue, 'POLL_S', 0.01)
    search = study('work', 3)
    assert queue.run_all(search.trials(), [{}]).stopped
    # The next is chosen when there is a result of this one.
    assert [trial.number for trial in search.sweep.trials()] == [0]
    assert len(search.study.trials) == 1


def test_a_trial_that_was_good_before_is_not_hopeless(study: Any) -> None:
    search = study('work', 6)
    trials = search.trials()
    for value in (30.0, 31.0, 32.0, 33.0, 34.0):
        log_of(next(trials), {2: value, 4: value})
    trial = next(trials)
    log_of(trial, {2: 32.5, 3: 5.0})
    assert not search.is_hopeless(trial)


def grid_trials(plan: SweepPlan, folder: Path) -> list[Trial]:
    return [*_grid_trials(plan, begin_sweep(plan, folder))]


@pytest.fixture
def both_orders(tmp_path: Path) -> tuple[SweepPlan, SweepPlan]:
    """A plan, and the same with its options in another order."""
    plan = read_sweep_plan(write_sweep(tmp_path))
    return plan, replace(plan, space=dict(reversed(plan.space.items())))


def test_options_in_another_order_are_the_same_sweep(
    both_orders: tuple[SweepPlan, SweepPlan], tmp_path: Path
) -> None:
    plan, other = both_orders
    first, *_ = _grid_trials(plan, begin_sweep(plan, tmp_path / 'work'))
    log_of(first, {4: 30.0})
    before = [(one.number, one.options) for one in grid_trials(plan, tmp_path / 'work')]
    after = [(one.number, one.options) for one in grid_trials(other, tmp_path / 'work')]
    assert sorted(after, key=lambda one: one[0]) == before
    assert len({tuple(sorted(options.items())) for _, options in after}) == len(after) == 4
    # Values stand below their own names.
    found = collect_trials(read_sweep(tmp_path / 'work'))
    head, rows = table_of(found)
    for row, (trial, _) in zip(rows, found.rows, strict=True):
        cells = dict(zip(head, row, strict=True))
        assert float(cells['weight']) == trial.options['model.distillation.0.weight']
        assert float(cells['tau']) == trial.options['model.distillation.0.loss.tau']
    for line in csv.DictReader(as_csv(found).splitlines()):
        options = found.sweep.trials()[int(line['trial'].removeprefix('trial'))].options
        assert {name: float(line[name]) for name in options} == options


def test_a_grid_goes_on_with_numbers_that_are_free(
    both_orders: tuple[SweepPlan, SweepPlan], tmp_path: Path
) -> None:
    plan, other = both_orders
    begun = [*islice(_grid_trials(plan, begin_sweep(plan, tmp_path / 'work')), 2)]
    found = grid_trials(other, tmp_path / 'work')
    assert [one.number for one in found] == [0, 2, 1, 3]
    assert [dict(found[place].options) for place in (0, 2)] == [dict(one.options) for one in begun]


def test_what_is_below_the_median_is_hopeless(study: Any) -> None:
    search = study('work', 7)
    trials = search.trials()
    for value in (30.0, 31.0, 32.0, 33.0, 34.0):
        trial = next(trials)
        log_of(trial, {2: value})
        # There is nothing to compare it with yet.
        assert not search.is_hopeless(trial)
        log_of(trial, {2: value, 4: value})
    good, bad = next(trials), next(trials)
    log_of(good, {2: 32.5})
    log_of(bad, {2: 31.5})
    assert not search.is_hopeless(good)
    assert search.is_hopeless(bad) and bad.is_pruned
    # It is told once.
    assert not search.is_hopeless(bad)
    # The end of one may be known before its process is over: another place asked for a trial.
    log_of(good, {2: 32.5, 4: 32.5})
    search.settle()
    log_of(good, {2: 32.5, 4: 32.5, 5: 1.0})
    assert not search.is_hopeless(good)
    states = [one.state.name for one in search.study.trials]
    assert states == ['COMPLETE'] * 6 + ['PRUNED']
    assert [one.value for one in search.study.trials][:5] == [30.0, 31.0, 32.0, 33.0, 34.0]


def test_short_names_tell_options_apart() -> None:
    assert short_names(['a.0.weight', 'b.lr']) == ['weight', 'lr']
    assert short_names(['a.0.weight', 'a.1.weight']) == ['0.weight', '1.weight']


def test_options_to_be_pasted() -> None:
    assert as_options({'a.b': 1.5, 'c': [1, 2]}) == "--cfg-options a.b=1.5 'c=[1,2]'"
    assert as_options({'a': dict(b=1)}) == "options={'a': {'b': 1}}"
    assert as_options({'a': [dict(b=1)]}) == "options={'a': [{'b': 1}]}"


@pytest.mark.parametrize('value', WORDS + NO_WORDS, ids=repr)
def test_pasted_options_are_the_same(value: Any) -> None:
    options = {'model.k': value, 'other': 1}
    text = as_options(options)
    if any(value is one for one in WORDS):
        parser = argparse.ArgumentParser()
        parser.add_argument('--cfg-options', nargs='+', action=Options)
        pasted = parser.parse_args(shlex.split(text)).cfg_options
    else:
        pasted = ast.literal_eval(text.removeprefix('options='))
    assert repr(pasted) == repr(options)  # 1, 1.0 and True are equal
