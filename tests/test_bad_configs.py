"""Broken configs, each with all that a user reads of it.

The good config is one, `good_config` in the builders; each case changes one thing in it. The cases
stand in bad_configs.txt.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mmseg
import pytest
from builders import (
    TAKEN_OUT,
    changed,
    good_config,
    mit,
    resnet,
    save_weights,
    term,
    write_dataset,
)
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

from mmseg_kd.cli import train as train_command
from mmseg_kd.config.distillation_spec import parse_distillation
from mmseg_kd.config.experiments import read_config
from mmseg_kd.config.load import load_config
from mmseg_kd.config.runner import check_runner_config
from mmseg_kd.data_checks.preflight import check_dataset
from mmseg_kd.engine.training import check_config
from mmseg_kd.errors import ConfigError, KDError, ManyErrors, Problems
from mmseg_kd.host.quiet import as_config_error

NAN = float('nan')
# What a value in the table may be made of.
WORDS = {'NAN': NAN, 'INF': float('inf'), 'TAKEN_OUT': TAKEN_OUT}

TABLE = Path(__file__).with_name('bad_configs.txt')


def cases(section: str) -> list[Any]:
    """The faults and messages of the sections whose name begins with `section`."""
    text = TABLE.read_text(encoding='utf-8')
    found = []
    for part in re.split(r'^\[', text, flags=re.M)[1:]:
        if part.startswith(section):
            for fault, message in re.findall(r'^(\S.*)\n((?:    .*\n)+)', part, flags=re.M):
                lines = [line.removeprefix('    ') for line in message.splitlines()]
                found.append(pytest.param(fault, '\n'.join(lines), id=fault))
    return found


def value_of(text: str) -> Any:
    return eval(text, dict(WORDS))


def broken(cfg: dict[str, Any], place: str, fault: str) -> dict[str, Any]:
    """The config with a fault, 'PLACE = VALUE', in which the place is seen from `place`."""
    name, value = fault.split(' = ', 1)
    return changed(cfg, place + name, value_of(value))


def told(error: Exception, folder: Path) -> str:
    """What an error says, without what is of this machine."""
    return str(error).replace(str(folder), 'HERE').replace(mmseg.__version__, 'VERSION')


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the configs here name."""
    init_default_scope('mmseg')
    folder = tmp_path_factory.mktemp('configs')
    save_weights(mit(8), folder / 'other.pth')
    save_weights(resnet(8, classes=7), folder / 'seven.pth')
    (folder / 'plain.py').write_text(f'model = {resnet(4)!r}', encoding='utf-8')
    (folder / 'empty.py').write_text('x = 1', encoding='utf-8')
    itself = dict(type='DistillationWrapper', student=dict(config='itself.py'))
    (folder / 'itself.py').write_text(f'model = {itself!r}', encoding='utf-8')
    return folder


@pytest.fixture(scope='module')
def good(folder: Path) -> dict[str, Any]:
    return good_config(folder)


@pytest.fixture(autouse=True)
def seen_from(folder: Path, good: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The good config's folder is the current one."""
    monkeypatch.chdir(folder)


def check(cfg: Mapping[str, Any]) -> None:
    """What a training does with a config before its data; networks are built only for the rest."""
    check_runner_config(Config(copy.deepcopy(cfg)), ['train', 'val'])
    model = cfg['model']
    problems = Problems()
    parts = (model.get(k) for k in ('student', 'teacher', 'distillation', 'data_preprocessor'))
    parse_distillation(*parts, problems)
    problems.raise_if_any()
    with as_config_error('model'):
        MODELS.build(copy.deepcopy(model))


def refusal(cfg: Mapping[str, Any], folder: Path) -> str:
    """What is said of a config that must be refused."""
    with pytest.raises(KDError) as caught:
        check(cfg)
    return told(caught.value, folder)


def test_the_table_is_read_as_a_whole() -> None:
    sections = [cases(name) for name in ('model', 'several', 'run', 'files', 'options', 'data')]
    lines = TABLE.read_text(encoding='utf-8').splitlines()
    assert sum(map(len, sections)) == len([x for x in lines[3:] if re.match(r'[^\s[]', x)])
    assert sum(map(len, sections)) > 160


def test_the_good_config_is_good(good: dict[str, Any]) -> None:
    check(good)


@pytest.mark.parametrize(('fault', 'message'), cases('model'))
def test_a_model(fault: str, message: str, good: dict[str, Any], folder: Path) -> None:
    assert refusal(broken(good, 'model.', fault), folder) == message


@pytest.mark.parametrize(('fault', 'message'), cases('several'))
def test_a_term_over_several_teachers(
    fault: str, message: str, good: dict[str, Any], folder: Path
) -> None:
    teachers = [{**good['model']['teacher'], 'name': name} for name in ('a', 'b')]
    cfg = changed(good, 'model.teacher', teachers)
    cfg = changed(cfg, 'model.distillation', [term(teacher=['a', 'b'])])
    assert refusal(broken(cfg, 'model.distillation.0.', fault), folder) == message


@pytest.mark.parametrize(('fault', 'message'), cases('run'))
def test_a_run(fault: str, message: str, good: dict[str, Any], folder: Path) -> None:
    assert refusal(broken(good, '', fault), folder) == message


def test_faults_in_all_places_are_told_at_once(good: dict[str, Any]) -> None:
    for fault in (
        "optim_wrapper.optimizer.type = 'AdmW'",
        'model.student.backbone.depth = 19',
        "model.teacher.autocast = 'int8'",
        'model.distillation.0.loss.tau = 0',
        'model.distillation.0.schedule.1.end = 10',
        'model.distillation.1.weight = NAN',
    ):
        good = broken(good, '', fault)
    with pytest.raises(ManyErrors) as caught:
        check_config(Config(good))
    found = [str(error).split('; ')[0] for error in caught.value.errors]
    assert found == [
        "optim_wrapper.optimizer: there is no optimizer 'AdmW'",
        'teacher.autocast: expected None (that of the student) or one of bfloat16, float16, '
        "float32, got 'int8'",
        'distillation[0].schedule[1]: LinearDecay: expected 0 <= begin < end, got begin=20, '
        'end=10.',
        'distillation[0].loss: CGDLoss: tau must be a finite number > 0, got 0.',
        "distillation[1].weight: expected a finite number >= 0, 'auto' or dict(share=...), got "
        'nan.',
        'student: KeyError: invalid depth 19 for resnet',
    ]


# Files.


@pytest.mark.parametrize(('fault', 'message'), cases('files'))
def test_a_file(fault: str, message: str, tmp_path: Path) -> None:
    for name, text in value_of(fault).items():
        (tmp_path / f'{name}.py').write_text(text, encoding='utf-8')
    with pytest.raises(ConfigError) as caught:
        load_config(str(tmp_path / 'top.py'), None)
    assert told(caught.value, tmp_path) == message


@pytest.mark.parametrize(('fault', 'message'), cases('options'))
def test_an_option(fault: str, message: str, folder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(str(folder / 'good.py'), value_of(fault))
    assert told(caught.value, folder) == message


@pytest.mark.parametrize('option', ['train_cfg.max_iters', 'model.x=[1,(2]'])
def test_an_option_without_a_value(
    option: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        train_command.main([str(folder / 'good.py'), '--cfg-options', option])
    assert f'--cfg-options: expected KEY=VALUE, got {option!r}\n' in capsys.readouterr().err


def test_dicts_as_options(capsys: pytest.CaptureFixture[str]) -> None:
    option = 'custom_hooks=[dict(type="ReferenceHook", mIoU=dict(teacher=64.65, baseline="a"))]'
    with pytest.raises(SystemExit) as end:
        train_command.main(['config.py', '--cfg-options', option])
    assert end.value.code == 2
    assert 'put dicts into a config' in capsys.readouterr().err


EXPERIMENTS = """
model = dict(type='A', terms=[1])
experiments = {
    'group10': dict(),
    'group3': dict(options={'model.terms.1': 2}),
    'group30': dict(published='39.5'),
}
"""


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('::grup10', "HERE has no experiment 'grup10'; nearest: group10, group30, group3."),
        (
            '::group3',
            "HERE::group3: options: model.terms.1: 'model.terms' is a list of 1; expected a "
            "number from 0 to 0 after it, got '1'.",
        ),
        ('::group30', "HERE::group30: published: expected a mIoU in percent, got '39.5'."),
        (
            '',
            'HERE has 3 experiments; name one of them, such as HERE::group10 '
            '(mmseg-kd experiments HERE prints all).',
        ),
    ],
)
def test_an_experiment(name: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / 'family.py'
    path.write_text(EXPERIMENTS, encoding='utf-8')
    with pytest.raises(ConfigError) as caught:
        read_config(f'{path}{name}')
    assert told(caught.value, path) == message


# Data.


@pytest.mark.parametrize(('fault', 'message'), cases('data'))
def test_data(fault: str, message: str, good: dict[str, Any], tmp_path: Path) -> None:
    write_dataset(tmp_path / 'data')
    cfg = changed(good, 'train_dataloader.dataset.data_root', str(tmp_path / 'data'))
    cfg = broken(cfg, 'train_dataloader.dataset.', fault)
    with pytest.raises(KDError) as caught:
        check_dataset(Config(cfg).train_dataloader.dataset, 'train', 5)
    assert told(caught.value, tmp_path) == message
