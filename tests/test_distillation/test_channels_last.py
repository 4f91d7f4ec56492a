"""A student in the memory format channels_last."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import batch, build, fcn_head, mit, resnet, save_weights, term, train, wrapper_config
from torch import Tensor, nn

from mmseg_kd.errors import ConfigError

Make = Callable[..., Any]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Build a wrapper with a ResNet for a teacher."""
    checkpoint = save_weights(resnet(8), tmp_path / 'teacher.pth')

    def build_wrapper(student: dict[str, Any], **arguments: Any) -> Any:
        return build({**wrapper_config(student, resnet(8), checkpoint, term()), **arguments})

    return build_wrapper


def kernels(network: nn.Module) -> list[Tensor]:
    """Of the convolutions, those for which the format makes a difference."""
    weights = [m.weight for m in network.modules() if isinstance(m, nn.Conv2d)]
    return [w for w in weights if w.shape[1] > 1 and w.shape[2] > 1]


def in_channels_last(tensor: Tensor) -> bool:
    return tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


@pytest.mark.parametrize('student', [resnet(4), mit(8)], ids=['resnet', 'mit'])
def test_the_student_runs_in_it_alone(make: Make, student: dict[str, Any]) -> None:
    plain, wrapper = make(student), make(student, channels_last=True)
    data = plain.data_preprocessor(batch(), training=True)
    assert len(kernels(wrapper.student)) > 1
    assert all(map(in_channels_last, kernels(wrapper.student)))
    assert not any(map(in_channels_last, kernels(wrapper.teacher)))
    assert not any(map(in_channels_last, kernels(plain.student)))
    # In eval mode, as dropout draws in the order of the memory.
    for network in (plain, wrapper):
        network.eval()
    losses = [network.parse_losses(network(**data, mode='loss'))[0] for network in (plain, wrapper)]
    torch.testing.assert_close(*losses, rtol=1e-5, atol=0)
    train(wrapper, 2)
    assert all(map(in_channels_last, kernels(wrapper.student)))


def test_maps_are_in_it_from_the_first_convolution_on(make: Make) -> None:
    wrapper = make(resnet(4), channels_last=True)
    outputs: list[Tensor] = []
    for layer in (wrapper.student.backbone.stem[0], wrapper.student.backbone.layer1):
        layer.register_forward_hook(lambda module, args, output: outputs.append(output))
    wrapper.train_step(batch(), _Idle())
    assert [in_channels_last(one) for one in outputs] == [True, True]


def test_it_goes_without_terms_and_without_a_teacher() -> None:
    wrapper = build(dict(type='DistillationWrapper', student=resnet(4), channels_last=True))
    assert all(map(in_channels_last, kernels(wrapper.student)))


def test_a_student_that_fails_in_it_is_an_error(make: Make) -> None:
    student = resnet(4, decode_head={**fcn_head(8, 1), 'type': 'FlatteningHead'})
    train(make(student), 1)
    with pytest.raises(
        ConfigError, match=r'model\.channels_last: .* leave the option out.*student: '
    ):
        make(student, channels_last=True)


class _Idle:
    """An optimiser that leaves everything as it is."""

    def optim_context(self, model: nn.Module) -> Any:
        return torch.enable_grad()

    def update_params(self, loss: Tensor) -> None:
        pass
