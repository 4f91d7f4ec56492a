"""What a plan says, and what is wrong with one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from builders import ROOT

from mmseg_kd.cli.compare import main
from mmseg_kd.comparison.folder import begin, differing
from mmseg_kd.comparison.plan import Budget, read_plan
from mmseg_kd.comparison.queue import places
from mmseg_kd.config.experiments import read_config
from mmseg_kd.errors import ConfigError, ManyErrors

PLAN = """
model = dict(type='DistillationWrapper', student=dict(type='A'), distillation=[])
train_dataloader = dict(batch_size=2)
val_dataloader = test_dataloader = dict(batch_size=1)
test_evaluator = dict(type='IoUMetric')
train_cfg = dict(max_iters=100, val_interval=50)
val_cfg = test_cfg = dict()
param_scheduler = [dict(type='PolyLR', by_epoch=False, end=100)]
experiments = {'alone': dict(), 'kl': dict(options={'model.distillation': [dict(weight=1)]})}
comparison = dict(baseline='alone')
"""


def plan(folder: Path, extra: str = '') -> str:
    path = folder / 'plan.py'
    path.write_text(PLAN + extra, encoding='utf-8')
    return str(path)


def test_a_plan(tmp_path: Path) -> None:
    found = read_plan(plan(tmp_path))
    assert (found.baseline, list(found.methods), found.seeds) == (
        'alone',
        ['alone', 'kl'],
        [0, 1, 2],
    )
    assert found.methods['kl'].model.distillation == [dict(weight=1)]
    assert all('comparison' not in cfg for cfg in found.methods.values())
    assert found.methods['kl'].train_cfg.max_iters == 100
    # Each method is an experiment like any other.
    assert read_config(f'{tmp_path}/plan.py::kl').model.distillation == [dict(weight=1)]


def test_the_plan_of_the_documentation(tmp_path: Path) -> None:
    page = (ROOT / 'docs' / 'compare.md').read_text(encoding='utf-8')
    [code] = re.findall(r'```python\n(.*?)```', page, re.S)
    base = ROOT / 'distillation_configs' / '_base_'
    path = tmp_path / 'plan.py'
    path.write_text(code.replace('../_base_', base.as_posix()), encoding='utf-8')
    found = read_plan(str(path))
    assert list(found.methods) == ['alone', 'kl', 'cgd']
    [term] = found.methods['cgd'].model.distillation
    assert term.loss == dict(type='CGDLoss', group_size=2, tau=4.0)
    assert found.methods['cgd'].train_cfg.max_iters == 4800


def test_shipped_plans() -> None:
    configs = [*(ROOT / 'distillation_configs').rglob('*.py')]
    plans = [one for one in configs if '\ncomparison = ' in one.read_text(encoding='utf-8')]
    assert plans
    for one in plans:
        assert len(read_plan(str(one)).methods) > 1


def test_seeds_and_budget_of_the_command_come_first(tmp_path: Path) -> None:
    path = plan(tmp_path, 'comparison.update(seeds=[3, 5], iterations=10)\n')
    found = read_plan(path)
    assert found.seeds == [3, 5]
    assert [cfg.train_cfg.max_iters for cfg in found.methods.values()] == [10, 10]
    found = read_plan(path, 1, Budget(iterations=20))
    assert found.seeds == [3]
    assert found.methods['kl'].param_scheduler[0].end == 20
    found = read_plan(path, 1, Budget(seconds=2.0))
    assert found.methods['kl'].train_cfg.max_iters == 100
    shares = {
        name: cfg.train_cfg for name, cfg in found.within(dict(alone=0.1, kl=0.3)).methods.items()
    }
    assert (shares['alone'].max_iters, shares['alone'].val_interval) == (20, 10)
    assert (shares['kl'].max_iters, shares['kl'].val_interval) == (6, 3)
    assert found.methods['kl'].train_cfg.max_iters == 100


@pytest.mark.parametrize(
    ('given', 'count', 'seeds'),
    [
        ([1, 2, 3], 2, [1, 2]),
        # The seed below them is one that a sweep tuned on.
        ([1, 2, 3], 5, [1, 2, 3, 4, 5]),
        ([7, 2], 4, [7, 2, 8, 9]),
        (3, 5, [0, 1, 2, 3, 4]),
        (3, 1, [0]),
    ],
)
def test_more_and_fewer_seeds(
    tmp_path: Path, given: int | list[int], count: int, seeds: list[int]
) -> None:
    path = plan(tmp_path, f"comparison['seeds'] = {given}\n")
    assert read_plan(path, count).seeds == seeds


def test_seeds_of_the_command_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='--seeds: expected how many, 1 or more, got 0'):
        read_plan(plan(tmp_path), 0)
    path = plan(tmp_path, "comparison['seeds'] = [2**32 - 1]\n")
    with pytest.raises(ConfigError, match='seeds: expected numbers from 0 to '):
        read_plan(path, 2)


def test_a_metric_as_mmseg_takes_it(tmp_path: Path) -> None:
    read_plan(plan(tmp_path, "test_evaluator.update(iou_metrics='mIoU')\n"))


def test_only_keeps_the_baseline(tmp_path: Path) -> None:
    path = plan(tmp_path, "experiments['cgd'] = dict()\n")
    assert list(read_plan(path, only=['cgd']).methods) == ['alone', 'cgd']


@pytest.mark.parametrize(
    ('extra', 'message'),
    [
        ('del comparison', r"expected comparison = dict\(baseline='NAME', ...\) beside the exper"),
        ('del model', r"::alone: expected model = dict\(type='...', ...\), got None"),
        ("model = dict(_delete_=True, type='SDModule')", 'is a config of SegDistill'),
        ('optim_wraper = dict()', 'optim_wraper'),
        ("comparison = 'alone'", 'expected comparison = dict'),
        ('comparison = dict()', 'baseline: expected one of the experiments, got None; nearest: '),
        ("comparison['baseline'] = 'aone'", "got 'aone'; nearest: alone"),
        ("comparison['baseline'] = ['alone']", r"expected one of .* got \['alone'\]; nearest: "),
        ('del experiments', "baseline: expected one of the experiments, got 'alone'; there is non"),
        ('comparison["seed"] = 3', "unknown key 'seed'; nearest: seeds"),
        ('comparison["seeds"] = 0', 'seeds: expected how many, 1 or more, or a list of whole numb'),
        ('comparison["seeds"] = True', 'seeds: expected how many, 1 or more'),
        ('comparison["seeds"] = [1, 2, 1]', r'seeds: expected each once, got \[1, 2, 1\]'),
        ('comparison["seeds"] = [1, -2]', r'seeds: expected numbers from 0 to .*, got \[1, -2\]'),
        ('comparison["iterations"] = 1.5', 'iterations: expected a whole number > 0, got 1.5'),
        ('comparison["iterations"] = 1', 'kl: a budget of 1 iterations is under one validation'),
        ('comparison["seconds"] = -1', 'seconds: expected a number > 0, got -1'),
        ('comparison.update(seconds=1, iterations=1)', 'of iterations or of seconds, got both'),
        ('comparison["may_differ"] = ["student"]', "may_differ: 'student'; nearest: model.student"),
        ('comparison["may_differ"] = [["student"]]', r"may_differ: \['student'\]; nearest: mod"),
        ('comparison["may_differ"] = None', 'may_differ: expected a list of model.stu.*, got None'),
        ('comparison["may_differ"] = 5', 'may_differ: expected a list of model.student, .* got 5'),
        (
            'comparison["teacher_options"] = 3\nmodel["teacher"] = "a.py"',
            'teacher_options: expected a dict by dotted names',
        ),
        ('comparison["teacher_options"] = {}', 'teacher_options: no method has a teacher'),
        ('experiments["teacher"] = dict()', "experiment 'teacher': expected a name for a folder"),
        ('experiments["a/b"] = dict()', "experiment 'a/b': expected a name for a folder"),
        (
            "experiments['kl']['options']['model.student.type'] = 'B'",
            'kl: model.student is another than the baseline has, so that .* could not be compared',
        ),
        (
            "experiments['kl']['options']['train_dataloader.batch_size'] = 4",
            r"kl: train_dataloader is another .* say comparison.may_differ=\['train_dataloader'\]",
        ),
        ('train_cfg = dict(by_epoch=True, max_epochs=3)', 'train_cfg: expected max_iters'),
        ("param_scheduler = dict(type='PolyLR')", 'param_scheduler: expected by_epoch=False'),
        ('test_dataloader = None', 'kl: expected a config that measures .* no test_dataloader'),
        (
            "test_evaluator.update(iou_metrics=['mDice'])",
            "kl: expected a metric that test_evaluator has, got 'mIoU'; nearest: mAcc, mDice",
        ),
        ("test_evaluator.update(iou_metrics='mDice')", "got 'mIoU'; nearest: mAcc, mDice"),
        ("test_evaluator.update(prefix='a')", "got 'mIoU'; nearest: a/mIoU"),
    ],
)
def test_what_is_refused(tmp_path: Path, extra: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_plan(plan(tmp_path, f'{extra}\n'))


def test_all_that_is_wrong_is_said_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = plan(tmp_path, 'comparison.update(seeds=[1, 1], baseline="kd", what=1)\n')
    with pytest.raises(ManyErrors) as caught:
        read_plan(path, only=['cd'])
    assert len(caught.value.errors) == 4
    assert main([path]) == 1
    assert capsys.readouterr().err.startswith('error: 3 problems:')


def test_what_may_differ_may(tmp_path: Path) -> None:
    options = "experiments['kl']['options']['model.student.type'] = 'B'\n"
    for given in (['model.student'], 'model.student'):
        read_plan(plan(tmp_path, options + f"comparison['may_differ'] = {given!r}\n"))


def test_the_teachers_test_may_be_another(tmp_path: Path) -> None:
    options = "model['teacher'] = 'a.py'\n"
    options += "comparison['teacher_options'] = {'test_dataloader.batch_size': 7}\n"
    read = read_plan(plan(tmp_path, options))
    assert [config.test_dataloader.batch_size for config in read.teachers] == [7]
    assert all(config.test_dataloader.batch_size != 7 for config in read.methods.values())


@pytest.mark.parametrize('budget', ['iterations', 'iterations=1.5', 'hours=3', 'seconds=soon'])
def test_budgets_that_are_none(budget: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(['plan.py', '--budget', budget])
    assert ended.value.code == 2
    assert f'expected iterations=N or seconds=S, got {budget!r}' in capsys.readouterr().err


def test_budgets_out_of_range(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = plan(tmp_path)
    assert main([path, '--budget', 'seconds=nan']) == 1
    assert 'seconds: expected a number > 0, got nan' in capsys.readouterr().err
    with pytest.raises(ConfigError, match='alone: a budget of 1 iterations is under one valida'):
        read_plan(path, budget=Budget(seconds=1.0)).within(dict(alone=0.9, kl=0.1))


def test_status_without_a_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([plan(tmp_path), '--work-dir', str(tmp_path), '--status']) == 1
    assert f'{tmp_path}: there is no comparison (comparison.json)' in capsys.readouterr().err
    (tmp_path / 'comparison.json').write_text('{"plan": 1', encoding='utf-8')
    assert main([plan(tmp_path), '--work-dir', str(tmp_path), '--status']) == 1
    assert re.search('comparison.json cannot be read', capsys.readouterr().err)


def test_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    monkeypatch.setattr('torch.cuda.device_count', lambda: 0)
    monkeypatch.setattr('os.sched_getaffinity', lambda _: set(range(8)))
    assert places(None, 100) == [dict(OMP_NUM_THREADS='1')] * 8
    assert places(None, 3) == [dict(OMP_NUM_THREADS='2')] * 3
    assert places(2, 100) == [dict(OMP_NUM_THREADS='4')] * 2
    monkeypatch.setenv('OMP_NUM_THREADS', '1')  # a user's own
    assert places(2, 100) == [dict(OMP_NUM_THREADS='1')] * 2
    monkeypatch.setattr('torch.cuda.device_count', lambda: 2)
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    assert places(None, 9) == [dict(CUDA_VISIBLE_DEVICES=name) for name in '01']
    assert places(2, 3) == [dict(CUDA_VISIBLE_DEVICES=name) for name in '010']
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '5,GPU-7')
    assert places(None, 9) == [dict(CUDA_VISIBLE_DEVICES=name) for name in ('5', 'GPU-7')]


@pytest.mark.parametrize(
    ('named', 'count', 'names'),
    [
        # Of the devices of a machine CUDA takes those before the first that is none.
        ('2,3,', 2, ['2', '3']),
        ('2,3,-1', 2, ['2', '3']),
        ('2,3,-1,4', 2, ['2', '3']),
        ('2,3,9', 2, ['2', '3']),
        ('2, 3', 2, ['2', '3']),
        # A process sees the first MIG instance alone.
        ('MIG-a,MIG-b', 1, ['MIG-a', 'MIG-b']),
        ('MIG-b', 1, ['MIG-b']),
    ],
)
def test_the_gpus_that_are_named(
    monkeypatch: pytest.MonkeyPatch, named: str, count: int, names: list[str]
) -> None:
    monkeypatch.setattr('torch.cuda.device_count', lambda: count)
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', named)
    assert places(None, 9) == [dict(CUDA_VISIBLE_DEVICES=name) for name in names]


TEACHER = "model['teacher'] = dict(config='big.py', checkpoint='big.pth')\n"


def test_the_teacher_is_measured_that_all_methods_have(tmp_path: Path) -> None:
    begun = begin(read_plan(plan(tmp_path, TEACHER)), tmp_path / 'one')
    assert begun.has_teacher and begun.runs()[0].config.exists()
    # As methods are added, and lengths changed, it stays what it is.
    added = TEACHER + "experiments = {'cd': dict(), **experiments}\n"
    assert begin(read_plan(plan(tmp_path, added)), tmp_path / 'one').has_teacher
    # A variable of the file is nothing that a run sees.
    renamed = TEACHER + 'weight = 3.0\n'
    assert begin(read_plan(plan(tmp_path, renamed)), tmp_path / 'one').has_teacher
    other = TEACHER.replace('big.pth', 'bigger.pth')
    with pytest.raises(ManyErrors, match=r'teacher: .* is of another plan: model.teacher.checkp'):
        begin(read_plan(plan(tmp_path, other)), tmp_path / 'one')


@pytest.mark.parametrize(
    'extra',
    [
        '',
        TEACHER + "experiments['kl']['options']['model.teacher.checkpoint'] = 'small.pth'\n",
        # Its scores are of other classes than the data have.
        TEACHER + "model['teacher']['class_map'] = [0, 0, 1]\n",
        "model['teacher'] = [dict(name='a', config='a.py'), dict(name='b', config='b.py')]\n",
        "model['teacher'] = dict(type='EMATeacher')\n",
    ],
)
def test_else_none_is(tmp_path: Path, extra: str) -> None:
    path = plan(tmp_path, extra)
    # Which methods are asked for now makes no difference.
    for only in (None, ['alone']):
        begun = begin(read_plan(path, only=only), tmp_path / 'one')
        assert not begun.has_teacher and not (tmp_path / 'one' / 'teacher').exists()


def test_what_configs_differ_in() -> None:
    ours = dict(a=dict(b=[1, dict(c=2)]), d=(1, 2), e=1)
    theirs = dict(a=dict(b=[1, dict(c=3)]), d=[1, 2], f=1)
    assert list(differing(ours, theirs)) == ['a.b.1.c', 'e', 'f']
    assert list(differing(ours, ours)) == []
