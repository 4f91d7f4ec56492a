"""What a sweep's plan says, and what is wrong with one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from builders import ROOT
from mmengine.config import Config
from sweep_project import write_sweep

from mmseg_kd.cli.sweep import main
from mmseg_kd.comparison import sweep
from mmseg_kd.comparison.held_out import hold_out
from mmseg_kd.comparison.plan import read_plan
from mmseg_kd.comparison.space import Range, grid, read_space
from mmseg_kd.comparison.sweep import begin_sweep, read_sweep_plan
from mmseg_kd.errors import ConfigError, ManyErrors


@pytest.fixture(scope='module')
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(write_sweep(tmp_path_factory.mktemp('sweep')))


def plan(written: Path, folder: Path, extra: str = '') -> str:
    path = folder / 'plan.py'
    path.write_text(written.read_text(encoding='utf-8') + extra, encoding='utf-8')
    return str(path)


def test_a_plan(written: Path, tmp_path: Path) -> None:
    found = read_sweep_plan(plan(written, tmp_path, 'sweep["iterations"] = 8\n'))
    assert (found.metric, found.maximize, found.seed) == ('mIoU', True, 0)
    assert found.is_grid and found.count == 4
    config = found.config_of(dict(zip(found.space, (3.0, 2.0), strict=True)))
    [term] = config.model.distillation
    assert (term.weight, term.loss.tau) == (3.0, 2.0)
    assert config.train_cfg.max_iters == 8
    assert 'sweep' not in config
    # The last of each three blocks of two.
    assert config.val_dataloader.dataset.indices == [4, 5, 10, 11]
    assert config.train_dataloader.dataset.indices == [0, 1, 2, 3, 6, 7, 8, 9]
    assert config.val_dataloader.dataset.data_prefix.img_path == 'images/train'
    assert all(one.type != 'RandomFlip' for one in config.val_dataloader.dataset.pipeline)
    assert config.test_dataloader.dataset.data_prefix.img_path == 'images/val'


def test_the_best_is_compared_on_all_of_train_and_other_seeds(
    written: Path, tmp_path: Path
) -> None:
    found = read_sweep_plan(plan(written, tmp_path))
    best = tmp_path / 'best.py'
    best.write_text(found.comparison_with({'model.distillation.0.weight': 3.0}), encoding='utf-8')
    compared = read_plan(str(best))
    assert compared.seeds == [1, 2, 3]
    weights = {
        name: one.model.distillation[0].get('weight') for name, one in compared.methods.items()
    }
    assert weights == {'plan': None, 'best': 3.0}
    assert 'indices' not in compared.methods['best'].train_dataloader.dataset


def test_the_plan_of_the_documentation() -> None:
    page = (ROOT / 'docs' / 'sweep.md').read_text(encoding='utf-8')
    code = next(one for one in re.findall(r'```python\n(.*?)```', page, re.S) if 'sweep =' in one)
    given: dict[str, dict[str, object]] = {}
    exec(code, given)
    assert given['sweep'].keys() <= set(sweep.KEYS)
    space = read_space(given['sweep']['space'], 'space')
    assert any(isinstance(one, Range) for one in space.values())


def test_a_grid_has_all_combinations() -> None:
    space = read_space({'a': [1, 2], 'b': ['x', 'y']}, 'space')
    found = grid(space)
    assert found is not None
    assert [tuple(one.values()) for one in found] == [(1, 'x'), (1, 'y'), (2, 'x'), (2, 'y')]
    assert grid({'a': Range(1, 2, False, None)}) is None


@pytest.mark.parametrize(
    ('extra', 'message'),
    [
        ('del sweep', r'expected sweep = dict\(space={...}, ...\) in the config, got None'),
        ('sweep["spice"] = 1', "unknown key 'spice'; nearest: space"),
        ('sweep["space"] = {}', r'space: expected values by dotted option, .* got {}'),
        (
            'sweep["space"] = {"model.type": []}',
            r'model.type: expected a list of values .* got \[\]',
        ),
        (
            'sweep["space"] = {"model.distilation.0.weight": [1]}',
            "model has no 'distilation'; nearest: distillation",
        ),
        ('sweep["space"] = {"modl.type": ["a"]}', "the config has no 'modl'; nearest: model"),
        ('sweep["space"] = {"load": ["a"]}', "the config has no 'load'; nearest: load_from"),
        (
            'sweep["space"] = {"model.distillation.1.weight": [1]}',
            "model.distillation has no '1'; nearest: 0",
        ),
        (
            'sweep["space"] = {"model.distillation.0.wieght": [1]}',
            "wieght=1: .*unknown key 'wieght'; nearest: weight",
        ),
        (
            'sweep["space"] = {"model.distillation.0.loss.tau": [1.0, -1.0]}',
            r'loss.tau=-1.0: .*tau must be a finite number > 0, got -1.0',
        ),
        (
            'sweep["space"] = {"model.distillation.0.student_layer": ["backbone.layer9"]}',
            "student_layer='backbone.layer9': .*nearest: ",
        ),
        (
            'sweep["space"] = {"model.distillation.0.loss.tau": dict(low=8.0, high=1.0)}',
            'expected two numbers, low < high, got low=8.0 and high=1.0',
        ),
        (
            'sweep["space"] = {"model.distillation.0.loss.tau": dict(low=1.0, hihg=2.0)}',
            "unknown key 'hihg'; nearest: high",
        ),
        (
            'sweep["space"] = {"model.distillation.0.loss.tau": dict(low=0, high=2, log=True)}',
            'expected log=True with low > 0 and without step',
        ),
        (
            'sweep["space"] = {"model.distillation.0.loss.tau": dict(low=1, high=2, step=0.5)}',
            'expected step to be a whole number > 0 within the range, got 0.5',
        ),
        (
            'sweep["space"] = {"model.distillation.0.loss.tau": dict(low=1.0, high=2.0)}',
            'expected trials=N, as a range in space has no end of values',
        ),
        (
            'sweep["metric"] = "miou"',
            "metric: expected a metric that val_.*, got 'miou'; nearest: mIoU",
        ),
        ('sweep["direction"] = "up"', "direction: expected one of .*maximize.*, got 'up'"),
        ('sweep["trials"] = 0', 'trials: expected a whole number >= 1, got 0'),
        ('sweep["seed"] = -1', 'seed: expected a whole number >= 0, got -1'),
        ('sweep["iterations"] = 1', 'a budget of 1 iterations is under one validation'),
        ('sweep["held_out"] = 6', r'held_out: expected dict\(every=N, block=N\), got 6'),
        ('sweep["held_out"] = dict(every=1)', 'every >= 2 and block >= 1'),
        ('sweep["held_out"] = dict(evry=2, every=2)', "unknown key 'evry'; nearest: every"),
        ('sweep["held_out"] = dict(every=20)', 'nothing is held out of 12 samples'),
        ('val_cfg = val_dataloader = val_evaluator = None', 'it has no val_cfg'),
    ],
)
def test_what_is_refused(written: Path, tmp_path: Path, extra: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_sweep_plan(plan(written, tmp_path, f'{extra}\n'))


def test_all_that_is_wrong_is_said_at_once(written: Path, tmp_path: Path) -> None:
    wrong = 'sweep.update(seed=-1, trials=0, space={"a": [], "b": 1})\n'
    with pytest.raises(ManyErrors) as caught:
        read_sweep_plan(plan(written, tmp_path, wrong))
    assert len(caught.value.errors) == 4


def test_without_optuna(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, 'find_spec', lambda name: None)
    with pytest.raises(ConfigError, match=r"not installed: pip install 'mmseg-kd\[sweep\]'"):
        read_sweep_plan(plan(written, tmp_path), trials=2)


def test_the_folder_of_another_sweep_is_refused(written: Path, tmp_path: Path) -> None:
    first = read_sweep_plan(plan(written, tmp_path))
    begin_sweep(first, tmp_path / 'work')
    begin_sweep(first, tmp_path / 'work')
    other = plan(written, tmp_path, "sweep['space']['model.distillation.0.weight'] = [1.0, 4.0]\n")
    with pytest.raises(ConfigError, match=r'is of another plan: sweep\.space\..*weight\.1 differs'):
        begin_sweep(read_sweep_plan(other), tmp_path / 'work')


def test_data_sets_that_wrap_others(written: Path) -> None:
    config = Config.fromfile(written)
    inner = config.train_dataloader.dataset
    config.train_dataloader.dataset = dict(type='RepeatDataset', times=2, dataset=inner)
    with pytest.raises(ConfigError, match='got RepeatDataset, which wraps others'):
        hold_out(config, dict(every=2), 'held_out')


def test_status_without_a_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['plan.py', '--work-dir', str(tmp_path), '--status']) == 1
    assert f'{tmp_path}: there is no sweep (sweep.json)' in capsys.readouterr().err
