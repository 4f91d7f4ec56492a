"""Comparisons that run: to their end, stopped and resumed, within seconds."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from builders import ROOT, same_tensors
from comparison_project import comparing, write_plan
from mmengine.config import Config
from mmengine.hooks import Hook
from PIL import Image
from training_runs import tensors

from mmseg_kd.cli.compare import main
from mmseg_kd.comparison.plan import read_plan
from mmseg_kd.comparison.process import last_words, start
from mmseg_kd.config.load import load_config
from mmseg_kd.engine.isolation import isolated
from mmseg_kd.engine.testing import MeasuringOptions, prepare_test
from mmseg_kd.engine.training import TrainingOptions, prepare_training, run_training
from mmseg_kd.runs.comparison import at_work, read_comparison, state_of
from mmseg_kd.runs.results import collect

Compared = tuple[str, Path, str]


def test_all_runs_but_the_one_that_fails_have_results(compared: Compared) -> None:
    _, work, out = compared
    results = json.loads((work / 'results.json').read_text(encoding='utf-8'))
    assert [row['method'] for row in results['methods']] == ['alone', 'kl']
    alone, kl = results['methods']
    for row in (alone, kl):
        assert set(row['values']) == {'0', '1'}
        assert row['mean'] == pytest.approx(sum(row['values'].values()) / 2)
        assert row['iterations'] == 8
        assert row['step_s'] > 0
        assert list(row['classes']) == ['a', 'b', 'c', 'd', 'e']
    gains = [kl['values'][seed] - alone['values'][seed] for seed in '01']
    assert kl['gain']['mean'] == pytest.approx(sum(gains) / 2)
    # Student's quantile for one degree of freedom is 12.706; of two values a and b the standard
    # error is |a - b| / 2.
    reach = kl['gain']['high'] - kl['gain']['mean']
    assert reach == pytest.approx(12.7062 * abs(gains[0] - gains[1]) / 2, rel=1e-4)
    assert alone['gain'] is None
    assert 0 < results['teacher'] < 100
    assert results['teacher_validation'] is None  # of the same images
    assert (work / 'results.md').read_text(encoding='utf-8') in out + '\n'
    assert re.search(r'lost, seed 0: failed with exit code 1: distillation.0..student_layer', out)
    assert 'Failed: lost, seed 1; the same command tries again.' in out
    with (work / 'results.csv').open(encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    assert [float(row['mIoU']) for row in rows] == [alone['mean'], kl['mean']]
    for name in ('curves.png', 'classes.png'):
        with Image.open(work / name) as picture:
            assert picture.width > 1000


def test_the_teacher_is_validated_where_that_is_of_other_images(tmp_path: Path) -> None:
    one = "val_dataloader = dict(val_dataloader, dataset=dict(val_dataloader['dataset'], "
    plan = write_plan(tmp_path, one + 'indices=[0]))\n')
    process = comparing(plan, tmp_path / 'work', '--only', 'kl', '--seeds', '1')
    assert process.wait() == 0, process.output()
    results = json.loads((tmp_path / 'work' / 'results.json').read_text(encoding='utf-8'))
    assert f'Teacher: {results["teacher_validation"]:.2f}.' in process.output()
    cfg = load_config(f'{plan}::kl', {'work_dir': str(tmp_path / 'measured')})
    with isolated():
        measured = prepare_test(cfg, None, MeasuringOptions(teacher='', split='val')).test()
    assert results['teacher_validation'] == pytest.approx(measured['mIoU'])
    assert results['teacher'] != results['teacher_validation']


def test_status_is_a_table(compared: Compared, capsys: pytest.CaptureFixture[str]) -> None:
    plan, work, _ = compared
    assert main([plan, '--work-dir', str(work), '--status']) == 0
    lines = [
        [cell.strip() for cell in line.split('|')[1:-1]]
        for line in capsys.readouterr().out.splitlines()
    ]
    found = {line[0]: line[1:] for line in lines[2:]}
    assert list(found) == ['teacher'] + [
        f'{method}, seed {seed}' for seed in (0, 1) for method in ('alone', 'kl', 'lost')
    ]
    assert found['kl, seed 1'][:2] == ['done', '8/8']
    assert 0 < float(found['kl, seed 1'][2]) < 100
    assert found['lost, seed 0'] == ['failed', '0/8', '']


def test_what_is_done_is_kept(compared: Compared) -> None:
    plan, work, _ = compared
    files = {path: path.stat().st_mtime_ns for path in work.glob('*/seed*/iter_8.pth')}
    assert len(files) == 4
    process = comparing(plan, work, '--only', 'kl')
    assert process.wait() == 0, process.output()
    assert 'begins' not in process.output()
    assert files == {path: path.stat().st_mtime_ns for path in files}
    # A third seed is a run more for each method that is asked for; the others stay in the table.
    comparison = read_comparison(work)
    assert set(comparison.methods) == {'alone', 'kl', 'lost'}


def test_another_plan_in_the_folder_is_refused(
    compared: Compared, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, work, _ = compared
    assert main([plan, '--work-dir', str(work), '--budget', 'iterations=6']) == 1
    err = capsys.readouterr().err
    assert re.search(r'kl: .*kl/config.py is of another plan: ', err)
    assert 'train_cfg.max_iters, train_cfg.val_interval' in err
    other = Path(plan).with_name('other.py')
    text = Path(plan).read_text(encoding='utf-8').replace("baseline='alone'", "baseline='kl'")
    other.write_text(text, encoding='utf-8')
    assert main([str(other), '--work-dir', str(work)]) == 1
    assert "with the baseline 'alone', not 'kl'" in capsys.readouterr().err


def test_two_at_once_are_refused(compared: Compared, capsys: pytest.CaptureFixture[str]) -> None:
    plan, work, _ = compared
    with at_work(work):
        assert main([plan, '--work-dir', str(work)]) == 1
    assert 'another process is at work there' in capsys.readouterr().err


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_stopped_and_resumed(compared: Compared, tmp_path: Path, number: int) -> None:
    plan, whole, _ = compared
    work = tmp_path / 'work'
    options = ('--only', 'kl', '--seeds', '1', '--jobs', '1')
    process = comparing(plan, work, *options)
    deadline = time.monotonic() + 60
    kept = work / 'kl' / 'seed0'
    while not list(kept.glob('iter_*.pth')):
        assert time.monotonic() < deadline, process.output()
        time.sleep(0.002)
    os.kill(process.pid, number)
    assert process.wait() == 75, process.output()
    assert 'Stopped; the same command goes on.' in process.output()
    assert 'failed' not in process.output()
    comparison = read_comparison(work)
    states = {str(run): state_of(run, False).name for run in comparison.runs()}
    assert states == {'teacher': 'done', 'alone, seed 0': 'done', 'kl, seed 0': 'stopped'}
    process = comparing(plan, work, *options)
    assert process.wait() == 0, process.output()
    assert re.findall('(.*): begins', process.output())[-1:] == ['kl, seed 0']
    ends = [folder / 'kl' / 'seed0' / 'iter_8.pth' for folder in (work, whole)]
    assert same_tensors(*map(tensors, ends))
    assert (
        collect(comparison).rows[1].values[0] == collect(read_comparison(whole)).rows[1].values[0]
    )


STOPPER = """
import os
import signal
import time
from pathlib import Path

from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class Stopper(Hook):
    priority = 'VERY_HIGH'

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == 8 and not Path('stopped').exists():
            Path('stopped').touch()
            os.kill(os.getppid(), signal.SIGTERM)
            time.sleep(1)
"""


def test_a_run_that_was_stopped_in_its_last_validation_makes_up_for_it(
    compared: Compared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path('stopper.py').write_text(STOPPER, encoding='utf-8')
    extra = "custom_imports = dict(imports=['stopper'])\ncustom_hooks = [dict(type='Stopper')]\n"
    extra += "default_hooks['logger'].update(log_metric_by_epoch=False)\n"
    plan, work = write_plan(tmp_path, extra), tmp_path / 'work'
    options = ('--only', 'alone', '--seeds', '1', '--jobs', '1')
    process = comparing(plan, work, *options)
    assert process.wait() == 75, process.output()
    assert 'alone, seed 0: stopped, can be resumed' in process.output()
    process = comparing(plan, work, *options)
    assert process.wait() == 0, process.output()
    [row] = collect(read_comparison(work)).rows
    whole = collect(read_comparison(compared[1])).rows[0]
    assert row.last_validation == {0: whole.last_validation[0]}
    assert row.values == {0: whole.values[0]}


@pytest.mark.parametrize(
    ('number', 'whom', 'code', 'words'),
    [
        (signal.SIGTERM, 'all', 75, 'teacher: stopped, can be resumed'),
        (signal.SIGTERM, 'child', 75, 'teacher: stopped, can be resumed'),
        (signal.SIGKILL, 'child', 1, 'teacher: failed (killed, as by a machine whose memory'),
    ],
)
def test_ended_while_nothing_is_trained(
    tmp_path: Path, number: int, whom: str, code: int, words: str
) -> None:
    extra = "comparison['seeds'] = 1\nexperiments = {'alone': {}}\n"
    process = comparing(write_plan(tmp_path, extra), tmp_path / 'work', '--jobs', '1')
    begun = tmp_path / 'work' / 'teacher' / 'test'
    deadline = time.monotonic() + 60
    while not begun.exists() or not (children := children_of(process.pid)):
        assert time.monotonic() < deadline, process.output()
        time.sleep(0.002)
    os.kill(process.pid if whom == 'all' else children[0], number)
    assert process.wait() == code, process.output()
    assert words in process.output()
    assert ('alone, seed 0: begins' in process.output()) == (whom == 'child')


def children_of(pid: int) -> list[int]:
    return [*map(int, Path(f'/proc/{pid}/task/{pid}/children').read_text().split())]


def test_a_process_ends_with_its_last_words(tmp_path: Path) -> None:
    log = tmp_path / 'run.log'
    log.write_text('error: of another time\n', encoding='utf-8')
    process = start(['run', str(tmp_path / 'absent.py'), str(tmp_path)], {}, log)
    assert process.wait(120) == 1
    assert process.stdin is not None
    process.stdin.close()
    assert re.match(r'there is no config file .*absent\.py', last_words(log))


def test_a_run_ends_with_the_comparison_that_started_it() -> None:
    code = (
        'import time; from mmseg_kd.comparison.run import end_with_parent; '
        'end_with_parent(); print(flush=True); time.sleep(60)'
    )
    process = subprocess.Popen(
        [sys.executable, '-c', code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdout.readline()
    process.stdin.close()
    assert process.wait(20) == -signal.SIGTERM
    process.stdout.close()


def test_within_seconds_a_dearer_method_makes_fewer_steps(tmp_path: Path) -> None:
    # Larger images: several times as dear, whatever else the machine does.
    dear = "experiments['kl']['options']['model.student.data_preprocessor.size'] = (192, 192)\n"
    extra = dear + "comparison.update(seeds=1, may_differ=['model.student'])\n"
    plan, work = write_plan(tmp_path, extra), tmp_path / 'work'
    process = comparing(plan, work, '--budget', 'seconds=0.6')
    assert process.wait() == 1, process.output()
    out = process.output()
    assert 'lost: left out, its steps cannot be measured: distillation[0].student_layer: ' in out
    measured = json.loads((work / 'steps' / 'measured.json').read_text(encoding='utf-8'))
    comparison = read_comparison(work)
    assert comparison.seconds == 0.6
    assert dict(comparison.methods) == {
        name: math.floor(0.6 / seconds) for name, seconds in measured.items()
    }
    assert comparison.methods['kl'] < comparison.methods['alone']
    config = Config.fromfile(work / 'kl' / 'config.py')
    assert config.train_cfg.val_interval == math.ceil(comparison.methods['kl'] / 2)
    # The same lengths when it goes on, and nothing is measured again.
    process = comparing(plan, work, '--budget', 'seconds=0.6', '--only', 'kl')
    assert process.wait() == 0, process.output()
    assert 'Measuring' not in process.output()
    assert read_comparison(work).methods == comparison.methods
    # A method with another config takes other steps.
    text = Path(plan).read_text(encoding='utf-8') + "train_dataloader['batch_size'] = 3\n"
    Path(plan).write_text(text, encoding='utf-8')
    process = comparing(plan, work, '--budget', 'seconds=0.6', '--only', 'kl')
    assert process.wait() == 1
    assert 'Measuring steps: alone, kl' in process.output()
    # With the numbers of iterations that follow from other steps.
    told = r'alone/config\.py is of another plan: .*\btrain_dataloader\.batch_size'
    assert re.search(told, process.output()), process.output()


class Watch(Hook):
    """Keeps what a training starts from, and its batches."""

    def __init__(self) -> None:
        self.start: dict[str, Any] = {}
        self.batches: list[Any] = []

    def before_train(self, runner: Any) -> None:
        student = runner.model.student
        self.start = {key: value.clone() for key, value in student.state_dict().items()}

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        images = [image.clone() for image in data_batch['inputs']]
        labels = [sample.gt_sem_seg.data.clone() for sample in data_batch['data_samples']]
        self.batches.append((images, labels))


def watched(config: Config, seed: int, folder: Path) -> Watch:
    config = config.copy()
    config.work_dir = str(folder / f'{time.monotonic_ns()}')
    watch = Watch()
    with isolated():
        runner = prepare_training(config, TrainingOptions(seed=seed))
        runner.register_hook(watch)
        run_training(runner)
    return watch


def same_batches(one: Watch, other: Watch) -> bool:
    assert len(one.batches) == len(other.batches) == 8
    return all(
        (a == b).all()
        for ours, theirs in zip(one.batches, other.batches, strict=True)
        for kind in (0, 1)
        for a, b in zip(ours[kind], theirs[kind], strict=True)
    )


def test_methods_of_a_seed_start_alike_and_see_the_same(
    compared: Compared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = read_plan(compared[0]).methods
    alone, kl = (watched(methods[name], 1, tmp_path) for name in ('alone', 'kl'))
    assert same_tensors(alone.start, kl.start)
    assert same_batches(alone, kl)
    other = watched(methods['alone'], 2, tmp_path)
    assert not same_tensors(alone.start, other.start)
    assert not same_batches(alone, other)
