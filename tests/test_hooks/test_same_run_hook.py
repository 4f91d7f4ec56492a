"""A run that is resumed as another is refused, with all that differs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import (
    build,
    resnet,
    save_weights,
    term,
    wrapper_config,
    write_config,
    write_dataset,
)
from mmengine.optim import ReduceOnPlateauLR

from mmseg_kd.cli import train
from mmseg_kd.errors import CheckpointError, ConfigError
from mmseg_kd.hooks import InitialWeightsHook, SameRunHook
from mmseg_kd.hooks.same_run_hook import _settings

pytestmark = pytest.mark.slow

FEATURES = term('backbone.layer1', 'backbone.layer1', 'CDLoss', name='features')


class Project:
    """A data set, a teacher, and configs that train for four iterations."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = write_dataset(folder / 'data')
        self.checkpoint = save_weights(resnet(8), folder / 'teacher.pth')

    def train(
        self,
        *terms: Any,
        options: Sequence[str] = ('--resume',),
        extra: str = '',
        student: Any = None,
    ) -> int:
        model = wrapper_config(student or resnet(4), resnet(8), self.checkpoint, *terms)
        path = write_config(self.folder, model, self.data)
        path.write_text(path.read_text(encoding='utf-8') + extra, encoding='utf-8')
        command = [str(path), '--work-dir', str(self.folder / 'work'), '--seed', '0']
        return train.main([*command, *options])


@pytest.fixture
def project(tmp_path: Path) -> Project:
    one = Project(tmp_path)
    assert one.train(term(loss='CDLoss', name='scores'), options=()) == 0
    return one


def test_the_same_run_goes_on(project: Project) -> None:
    other = term(loss='CDLoss', name='scores', weight=9.0)
    assert project.train(other, extra='train_cfg.update(max_iters=6)\n') == 0


def test_all_that_differs_is_said(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    save_weights(resnet(8), Path(project.checkpoint), seed=8)
    kl = term(loss='KLLoss', name='scores')
    student = resnet(4, classes=5)
    student['backbone']['base_channels'] = 6
    student['decode_head']['in_channels'] = 12
    assert project.train(kl, FEATURES, student=student) == 1
    message = capsys.readouterr().err
    for part in (
        'tensors are of another shape, such as student.backbone.',
        "term 'features' is new",
        "term 'scores': CDLoss before and KLLoss now",
        "teacher 'teacher': other weights",
        'the optimiser had',
        'load_from',
    ):
        assert part in message


def test_changes_are_allowed_where_they_are_meant(project: Project) -> None:
    extra = (
        'train_cfg.update(max_iters=6)\n'
        "param_scheduler = [dict(type='PolyLR', by_epoch=False, end=8)]\n"
    )
    options = ['--resume', '--allow-changes']
    terms = term(loss='CDLoss', name='scores'), FEATURES
    assert project.train(*terms, extra=extra, options=options) == 0
    content = torch.load(project.folder / 'work' / 'iter_6.pth', weights_only=False)
    assert content['meta']['iter'] == 6
    assert any(key.startswith('terms.features.') for key in content['state_dict'])
    # The optimiser's groups are others; the learning rate is the sixth iteration's all the same.
    [schedule] = content['param_schedulers']
    assert schedule['last_step'] == 6


@pytest.mark.parametrize(
    ('extra', 'message'),
    [
        ("optim_wrapper['optimizer'] = dict(type='AdamW')\n", 'was SGD, and is AdamW now'),
        ("optim_wrapper['optimizer'] = dict(type='RMSprop')\n", 'was SGD, and is RMSprop now'),
    ],
)
def test_another_optimizer(
    project: Project, capsys: pytest.CaptureFixture[str], extra: str, message: str
) -> None:
    extra += 'train_cfg.update(max_iters=6)\n'
    scores = term(loss='CDLoss', name='scores')
    assert project.train(scores, extra=extra) == 1
    assert f'the optimiser {message}' in capsys.readouterr().err
    assert project.train(scores, extra=extra, options=['--resume', '--allow-changes']) == 0


@pytest.mark.parametrize(
    ('extra', 'lines'),
    [
        ('', []),
        (
            "optim_wrapper['optimizer'].update(lr=0.5, weight_decay=0.1)\n",
            ['param_groups[0] lr: 0.01, and not 0.5', 'weight_decay: 0, and not 0.1'],
        ),
        (
            'param_scheduler[0].update(power=2.0, end=9)\n',
            ['[0] power: 1.0, and not 2.0', '[0] total_iters: 7, and not 8', 'end: 8, and not 9'],
        ),
    ],
)
def test_settings_of_learning_that_are_the_checkpoints(
    tmp_path: Path, extra: str, lines: list[str]
) -> None:
    project = Project(tmp_path)
    schedule = "param_scheduler = [dict(type='PolyLR', by_epoch=False, end=8)]\n"
    assert project.train(extra=schedule, options=()) == 0
    more = f'{schedule}{extra}train_cfg.update(max_iters=6)\n'
    assert project.train(extra=more) == 0
    said = ''.join(log.read_text(encoding='utf-8') for log in tmp_path.glob('work/*/*.log'))
    assert ('not as this config says' in said) == bool(lines)
    assert said.count(', and not ') == len(lines)
    for line in lines:
        assert line in said


@pytest.mark.filterwarnings('ignore:Detected call of')
def test_what_a_scheduler_counts_is_no_setting() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = ReduceOnPlateauLR(optimizer, monitor='mIoU', rule='greater', patience=1, cooldown=3)
    before = dict(scheduler.state_dict())
    for value in (50.0, 40.0, 30.0, 20.0, 10.0, 0.0, 0.0):
        scheduler.step({'mIoU': value})
        now = scheduler.state_dict()
        assert [key for key in _settings(now) if now[key] != before[key]] == []
    assert {'patience', 'cooldown', 'factor', 'rule'} <= _settings(before)


def test_a_checkpoint_without_the_optimizer(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """As mmengine writes the best ones."""
    file = project.folder / 'work' / 'iter_4.pth'
    content = torch.load(file, weights_only=False)
    del content['optimizer']
    content.pop('param_schedulers', None)
    best = project.folder / 'best.pth'
    torch.save(content, best)
    extra = (
        'train_cfg.update(max_iters=6)\n'
        "param_scheduler = [dict(type='PolyLR', by_epoch=False, end=8)]\n"
    )
    scores = term(loss='CDLoss', name='scores')
    assert project.train(scores, extra=extra, options=['--resume', str(best)]) == 1
    assert 'it has no state of the optimiser' in capsys.readouterr().err
    options = ['--resume', str(best), '--allow-changes']
    assert project.train(scores, extra=extra, options=options) == 0
    content = torch.load(project.folder / 'work' / 'iter_6.pth', weights_only=False)
    assert content['param_schedulers'][0]['last_step'] == 6


def test_an_argument_that_is_none() -> None:
    with pytest.raises(ConfigError, match='expected allow_changes=True or False'):
        SameRunHook(allow_changes='yes')


class Runner:
    """What a hook sees of a runner that loads a file."""

    _resume = False
    _load_from = 'a.pth'

    def __init__(self, model: Any) -> None:
        self.model = model
        self.said: list[str] = []
        self.logger = self

    def info(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def wrapper(tmp_path: Path) -> Any:
    checkpoint = save_weights(resnet(8), tmp_path / 'teacher.pth')
    return build(wrapper_config(resnet(4), resnet(8), checkpoint, term(), FEATURES), seed=1)


def test_weights_of_any_kind_fill_the_student(wrapper: Any) -> None:
    plain = {k: v.clone() for k, v in build(resnet(4), seed=2).state_dict().items()}
    distilled = {f'student.{k}': v for k, v in plain.items()}
    learnt = {k: v + 1 for k, v in wrapper.state_dict().items() if k.startswith('terms.')}
    assert learnt
    for content in (
        dict(plain),
        dict(state_dict=dict(plain), meta={}),
        dict(state_dict={f'module.{k}': v for k, v in distilled.items()}),
        dict(state_dict={**distilled, **learnt}),
    ):
        runner = Runner(wrapper)
        InitialWeightsHook().after_load_checkpoint(runner, content)
        found = content['state_dict']
        assert {k: v for k, v in found.items() if k.startswith('student.')} == distilled
        missing = wrapper.load_state_dict(found, strict=False).unexpected_keys
        assert not missing
        [line] = runner.said
        assert 'load_from: a.pth' in line and '0 missing' in line
    assert {k: v for k, v in found.items() if k.startswith('terms.')} == learnt


def test_a_distillation_fills_a_plain_network() -> None:
    network = build(resnet(4), seed=1)
    plain = build(resnet(4), seed=2).state_dict()
    content = dict(state_dict={f'student.{k}': v for k, v in plain.items()})
    InitialWeightsHook().after_load_checkpoint(Runner(network), content)
    assert content['state_dict'].keys() == plain.keys()


def test_weights_of_another_network_are_refused(wrapper: Any) -> None:
    content = dict(state_dict=dict(weight=torch.zeros(3)))
    with pytest.raises(CheckpointError, match='belongs to another network'):
        InitialWeightsHook().after_load_checkpoint(Runner(wrapper), content)
