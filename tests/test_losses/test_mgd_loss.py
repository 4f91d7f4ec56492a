from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from builders import build, resnet, same_tensors, save_weights, term, train, wrapper_config
from conftest import random_maps
from torch import Tensor, nn
from vectors import cases, check, inputs_of

from mmseg_kd.errors import ShapeError
from mmseg_kd.losses import MGDLoss


def with_generator(loss: nn.Module, x: Mapping[str, Tensor]) -> Tensor:
    """The loss of a case's inputs, with its weights and aligned by its 1x1 convolution."""
    student = x['student']
    if 'align_weight' in x:
        student = F.conv2d(student, x['align_weight'], x['align_bias'])
    weights = {
        f'generator.{layer}.{kind}': x[f'{layer}_{kind}']
        for layer in ('conv1', 'conv2', 'adaptor1', 'adaptor2')
        for kind in ('weight', 'bias')
        if f'{layer}_{kind}' in x
    }
    loss = loss.to(student.dtype)
    assert weights.keys() == dict(loss.named_parameters()).keys()
    value: Tensor = torch.func.functional_call(loss, weights, (student, x['teacher']))
    return value


@pytest.mark.parametrize('case', cases('more.json', 'mgd', 'mgd_noalign', 'mgd_channel'))
def test_the_authors_and_mmrazor(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = inputs_of(case)
    masked: Any = 'channels' if 'channel' in case['id'] else 'positions'
    loss = MGDLoss(inputs['teacher'].shape[1], case['params']['lambda'], masked)

    def drawn(shape: tuple[int, ...], device: Any) -> Tensor:
        assert inputs['uniform'].shape == shape
        return inputs['uniform']

    monkeypatch.setattr(torch, 'rand', drawn)
    check(case, lambda x: case['params']['alpha'] * with_generator(loss, x), inputs)


def identity(loss: MGDLoss) -> MGDLoss:
    """The generator lets positive features through as they are."""
    for conv in (loss.generator.conv1, loss.generator.conv2):
        nn.init.dirac_(conv.weight)
        nn.init.zeros_(conv.bias)
    return loss


@pytest.mark.parametrize(('ratio', 'expected'), [(0.0, 1.0), (1.0, 1.0 + 4 + 4 + 16)])
def test_by_hand(ratio: float, expected: float) -> None:
    student = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])
    teacher = torch.tensor([[[[1.0, 2.0]], [[2.0, 4.0]]]])
    loss = identity(MGDLoss(2, mask_ratio=ratio))
    # Two of the same images: a mean over these.
    value = loss(student.repeat(2, 1, 1, 1), teacher.repeat(2, 1, 1, 1))
    assert value.item() == pytest.approx(expected)


@pytest.mark.parametrize('masked', ['positions', 'channels'])
def test_the_share_and_the_kind_of_the_mask(masked: Any) -> None:
    torch.manual_seed(0)
    loss = identity(MGDLoss(50, 0.75, masked))
    inside: list[Tensor] = []
    loss.generator.register_forward_pre_hook(lambda module, args: inside.append(args[0]))
    loss(torch.ones(4, 50, 10, 10), torch.ones(4, 50, 10, 10))
    loss(torch.ones(4, 50, 10, 10), torch.ones(4, 50, 10, 10))
    first, second = inside
    assert not torch.equal(first, second)
    assert first.mean().item() == pytest.approx(0.25, abs=0.06)
    per_mask = first[:, 0] if masked == 'positions' else first[..., 0, 0]
    repeated = per_mask[:, None] if masked == 'positions' else per_mask[..., None, None]
    assert torch.equal(first, repeated.expand_as(first))


@pytest.fixture
def config(tmp_path: Path) -> Any:
    """A wrapper's config with MGD between layers of 4 and 8 channels."""
    teacher = resnet(8)
    checkpoint = save_weights(teacher, tmp_path / 'teacher.pth')
    layer = 'backbone.layer1'

    def make(**options: Any) -> Any:
        loss = dict(type='MGDLoss', **options)
        return wrapper_config(resnet(4), teacher, checkpoint, term(layer, layer, loss, weight=1e-3))

    return make


@pytest.mark.parametrize('options', [{}, dict(channels=8)])
def test_a_term_says_the_channels_and_the_generator_trains(config: Any, options: Any) -> None:
    wrapper = build(config(**options))
    prefix = 'terms.mgd.loss.generator.'
    before = {k: v.clone() for k, v in wrapper.state_dict().items() if k.startswith(prefix)}
    assert before[f'{prefix}conv1.weight'].shape == (8, 8, 3, 3)
    train(wrapper, 1)
    after = {key: wrapper.state_dict()[key] for key in before}
    assert not any(torch.equal(before[key], after[key]) for key in before)
    other = build(config(**options), seed=1)
    other.load_state_dict(wrapper.state_dict())
    assert same_tensors(after, {key: other.state_dict()[key] for key in before})


def test_channels_that_are_not_those_of_the_layers(config: Any) -> None:
    with pytest.raises(ShapeError, match=r'distillation\[0\].*MGDLoss: channels=4.*channels=8'):
        build(config(channels=4))


def test_a_loop_must_say_the_channels() -> None:
    student, teacher = random_maps()
    with pytest.raises(ValueError, match='channels must be given: the maps have 5'):
        MGDLoss()(student, teacher)


@pytest.mark.parametrize(
    ('argument', 'value'),
    [('channels', 0), ('mask_ratio', 1.5), ('mask_ratio', None), ('masked', 'pixels')],
)
def test_wrong_argument(argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f'{argument} .*{re.escape(repr(value))}'):
        MGDLoss(**{argument: value})
