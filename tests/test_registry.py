from __future__ import annotations

import re
from typing import Any

import pytest
from mmengine.config import ConfigDict
from mmengine.registry import Registry

from mmseg_kd.errors import ConfigError
from mmseg_kd.losses import CGDLoss, KLLoss
from mmseg_kd.registry import CONNECTORS, KD_LOSSES, SCHEDULES, build, look_up


def test_builds_with_arguments() -> None:
    loss = build(KD_LOSSES, dict(type='CGDLoss', group_size=4, tau=2.0), 'loss')
    assert isinstance(loss, CGDLoss)
    assert (loss.group_size, loss.tau) == (4, 2.0)


@pytest.mark.parametrize('kind', ['KLLoss', 'mmseg_kd.KLLoss', KLLoss])
def test_type_is_a_name_or_a_class(kind: Any) -> None:
    assert isinstance(build(KD_LOSSES, dict(type=kind), 'loss'), KLLoss)


def test_config_is_not_changed() -> None:
    cfg = ConfigDict(type='KLLoss', tau=2.0, _scope_='mmseg')
    build(KD_LOSSES, cfg, 'loss')
    assert dict(cfg) == dict(type='KLLoss', tau=2.0, _scope_='mmseg')


def test_members_are_found_without_their_import() -> None:
    members = {registry.name: set(registry.module_dict) for registry in (KD_LOSSES, SCHEDULES)}
    assert members['kd_loss'] >= {'KLLoss', 'CDLoss', 'CGDLoss'}
    assert members['schedule'] >= {'LinearWarmup', 'LinearDecay', 'Jump'}
    assert 'ConvConnector' in CONNECTORS.module_dict


def message(registry: Registry, cfg: Any, **injected: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        build(registry, cfg, 'distillation[2].loss', **injected)
    assert str(caught.value).startswith('distillation[2].loss: ')
    return str(caught.value).removeprefix('distillation[2].loss: ')


@pytest.mark.parametrize('cfg', [None, 'KLLoss', [], {}, dict(tau=1.0)])
def test_no_dict_with_a_type(cfg: Any) -> None:
    assert message(KD_LOSSES, cfg) == f"expected dict(type='...', ...), got {cfg!r}."


@pytest.mark.parametrize('kind', [None, 3, ['KLLoss']])
def test_type_that_is_no_name(kind: Any) -> None:
    assert message(KD_LOSSES, dict(type=kind)).startswith('expected a name or a class')


def test_unknown_type_has_the_nearest_names() -> None:
    text = message(KD_LOSSES, dict(type='CDGLoss'))
    assert re.match(r"there is no kd_loss 'CDGLoss'; nearest: C?G?DLoss, .*custom_imports", text)


def test_unknown_argument_has_the_nearest_names() -> None:
    text = message(KD_LOSSES, dict(type='CGDLoss', groupsize=4))
    assert text.startswith("CGDLoss has no argument 'groupsize'; nearest: group_size, ")


def test_missing_argument_is_named() -> None:
    text = message(SCHEDULES, dict(type='LinearDecay', begin=3))
    assert re.match("LinearDecay: .*missing.*'end'", text)


def test_refused_value_is_told() -> None:
    assert message(KD_LOSSES, dict(type='KLLoss', tau=-1)).endswith('> 0, got -1.')


def test_injected_arguments_are_not_the_users() -> None:
    text = message(
        CONNECTORS,
        dict(type='ConvConnector', teacher_channels=3),
        student_channels=1,
        teacher_channels=2,
    )
    assert text == "ConvConnector has no argument 'teacher_channels'; nearest: kernel_size."


def test_a_misspelt_argument_of_a_member_that_takes_any() -> None:
    def member(interval: int = 1, **kwargs: int) -> int:
        return interval + len(kwargs)

    registry = Registry('any', scope='mmseg_kd')
    registry.register_module(name='Any', module=member)
    text = message(registry, dict(type='Any', intervall=2))
    assert text == "Any has no argument 'intervall'; nearest: interval."
    assert build(registry, dict(type='Any', other=2), 'here') == 2


def test_looking_up_builds_nothing() -> None:
    cfg = dict(type='LinearDecay', begin='later', priority=1)
    found = look_up(SCHEDULES, cfg, 'here', optional=['priority'], is_complete=False)
    assert found is SCHEDULES.get('LinearDecay')
    with pytest.raises(ConfigError, match="here: LinearDecay has no argument 'priority'"):
        look_up(SCHEDULES, cfg, 'here')
    with pytest.raises(ConfigError, match="here: LinearDecay: missing: 'end'"):
        look_up(SCHEDULES, cfg, 'here', optional=['priority'])


def test_member_that_takes_any_argument() -> None:
    registry = Registry('any', scope='mmseg_kd')
    registry.register_module(name='dict', module=dict)
    registry.register_module(name='Any', module=lambda **kwargs: kwargs)
    assert build(registry, dict(type='Any', a=1), 'here', b=2) == dict(a=1, b=2)
