"""What all losses of the registry have in common."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from conftest import Largest, random_label, random_maps, value_and_gradient
from torch import Tensor, nn

from mmseg_kd.host.iteration import at_iteration
from mmseg_kd.losses import LogitLoss
from mmseg_kd.registry import KD_LOSSES

CHANNELS = 5
MAP, LABEL = (6, 8), (12, 16)

Inputs = Tensor | list[Tensor]


@dataclass(frozen=True)
class Case:
    """How a loss is built for maps of `CHANNELS` channels, and what is special about it."""

    arguments: dict[str, Any] = field(default_factory=dict)
    # Whether it is 0 where the student is as the teacher.
    is_zero: bool = True
    # What it is given of a map.
    inputs_of: Callable[[Tensor], Inputs] = lambda x_NChw: x_NChw
    # Whether its gradient is then 0 too.
    is_smooth: bool = True


def block(x_NChw: Tensor) -> list[Tensor]:
    """Attention weights and values of a transformer block."""
    value_NSC = x_NChw.flatten(2).mT
    return [(value_NSC @ value_NSC.mT).softmax(-1), value_NSC]


VOID = dict(ignore_index=255)
QUEUES = dict(num_classes=5, pixel_entries=6, region_entries=4, pixels_per_image=2)

TABLE = {
    'ATLoss': Case(VOID),
    'AfDCDLoss': Case(dict(groups=5, patch=(2, 2), pool=2), is_zero=False),
    'AttentionTransferLoss': Case(),
    'AttentionValueLoss': Case(inputs_of=block),
    'BoundaryLoss': Case(VOID),
    'CDLoss': Case(VOID),
    'CGDLoss': Case(dict(group_size=2, shuffle_interval=1, **VOID)),
    'CIRKDLoss': Case(),
    'CIRKDMemoryLoss': Case(dict(channels=CHANNELS, **QUEUES), is_zero=False),
    'CSDLoss': Case(),
    'CWD': Case(VOID),
    'DISTLoss': Case(VOID),
    'DKDLoss': Case(VOID),
    'FeatureLoss': Case(),
    'FreqLoss': Case(dict(num_tokens=2)),
    'IFVDLoss': Case(VOID),
    'JaccardLoss': Case(VOID, is_smooth=False),  # it has the absolute difference
    'KLLoss': Case(VOID),
    'MGDLoss': Case(is_zero=False),
    'MasKDLoss': Case(dict(num_tokens=2)),
    'PKDLoss': Case(),
    'RKDLoss': Case(),
    'SKDLoss': Case(),
    'SoftCrossEntropyLoss': Case(VOID, is_zero=False),
}


def build(name: str) -> nn.Module:
    """A loss of the table, as a term makes it."""
    torch.manual_seed(0)
    loss: nn.Module = KD_LOSSES.get(name)(**TABLE[name].arguments)
    getattr(loss, 'check_channels', lambda channels: None)(CHANNELS)
    return loss


def value_of(name: str, loss: nn.Module, student: Tensor, teacher: Tensor, label: Tensor) -> Tensor:
    """The loss of two maps in the first iteration; what it draws is always the same."""
    inputs_of = TABLE[name].inputs_of
    torch.manual_seed(1)
    with at_iteration(0):
        value: Tensor = loss(inputs_of(student), inputs_of(teacher), label)
    return value


def maps(images: int = 2, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [x.to(dtype) for x in random_maps(MAP, channels=CHANNELS, images=images)]


every_loss = pytest.mark.parametrize('name', TABLE)


def test_the_table_has_every_loss() -> None:
    own = {
        name
        for name, kind in KD_LOSSES.module_dict.items()
        if kind.__module__.startswith('mmseg_kd.')
    }
    assert own == TABLE.keys()


@every_loss
def test_repr_names_every_option(name: str) -> None:
    text = build(name).extra_repr()
    for option in inspect.signature(KD_LOSSES.get(name)).parameters:
        assert re.search(rf'\b{option}=', text), option
    for option, value in TABLE[name].arguments.items():
        assert f'{option}={value!r}' in text


@every_loss
def test_equal_maps(name: str) -> None:
    loss = build(name).double()
    student = maps(dtype=torch.float64)[0]
    teacher, label = student.clone(), random_label(LABEL)
    value, gradient = value_and_gradient(lambda s: value_of(name, loss, s, teacher, label), student)
    assert value.ndim == 0
    if TABLE[name].is_zero:
        assert value.abs() < 1e-7
        assert gradient.abs().max() < 1e-7 or not TABLE[name].is_smooth
    else:
        assert value.abs() > 1e-9


@every_loss
def test_the_gradient_goes_to_the_student_and_to_what_the_loss_learns(name: str) -> None:
    loss = build(name)
    student, teacher = (x.requires_grad_() for x in maps())
    value_of(name, loss, student, teacher, random_label(LABEL)).backward()
    assert teacher.grad is None
    for x in (student, *loss.parameters()):
        assert x.grad is not None
        assert x.grad.isfinite().all()
        assert x.grad.any()


@every_loss
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    student, teacher = maps(dtype=dtype)
    label = random_label(LABEL)
    if TABLE[name].inputs_of is block:
        student, teacher = student / 4, teacher / 4
    loss = build(name)
    exact = copy.deepcopy(loss)
    student.requires_grad_()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        value = value_of(name, loss, student, teacher, label)
    (gradient,) = torch.autograd.grad(value, student)
    expected, expected_gradient = value_and_gradient(
        lambda s: value_of(name, exact, s.float(), teacher.float(), label), student
    )
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    if TABLE[name].inputs_of is block:  # made in half precision, by the test
        assert value.isfinite()
        assert gradient.isfinite().all()
        return
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(gradient, expected_gradient)


@every_loss
def test_all_labels_ignored(name: str) -> None:
    student, teacher = maps()
    label = torch.full((2, *LABEL), 255)
    loss = build(name)
    value, gradient = value_and_gradient(lambda s: value_of(name, loss, s, teacher, label), student)
    if isinstance(loss, LogitLoss) or name == 'CIRKDMemoryLoss':
        assert value == 0
        assert not gradient.any()
    assert value.isfinite()
    assert gradient.isfinite().all()


@every_loss
def test_pixels_of_images_without_a_mask(name: str) -> None:
    # Their labels are below 0, which is neither a class nor ignored.
    student, teacher = maps()
    label = random_label(LABEL)
    label[1] = -1
    loss = build(name)
    value, gradient = value_and_gradient(lambda s: value_of(name, loss, s, teacher, label), student)
    assert value.isfinite()
    assert gradient.isfinite().all()
    # What looks at classes has nothing to learn from them; all others have.
    assert gradient[1].any() or name in ('CIRKDMemoryLoss', 'DKDLoss')


def zeros(images: int = 2) -> Tensor:
    return torch.zeros(images, CHANNELS, *MAP)


def half_zero(x: Tensor) -> Tensor:
    """As after a ReLU that is dead in half of the map."""
    x = x.clone()
    x[..., : MAP[1] // 2] = 0
    return x


ONE_CLASS = torch.zeros(2, *LABEL, dtype=torch.long)
DEGENERATE = {
    'zeros': (zeros(), zeros(), random_label(LABEL)),
    'student of zeros': (zeros(), maps()[1], random_label(LABEL)),
    'teacher of zeros': (maps()[0], zeros(), random_label(LABEL)),
    'constants': (zeros() + 1, zeros() + 3, random_label(LABEL)),
    'half of zeros': (half_zero(maps()[0]), half_zero(maps()[1]), random_label(LABEL)),
    'equal maps': (maps()[0], maps()[0], random_label(LABEL)),
    'one class': (*maps(), ONE_CLASS),
    'one image': (*maps(images=1), random_label(LABEL, images=1)),
    'one image, one class': (*maps(images=1), ONE_CLASS[:1]),
    'large values': (*(1e4 * x for x in maps()), random_label(LABEL)),
}


@every_loss
@pytest.mark.parametrize('case', DEGENERATE)
def test_degenerate_input_gives_a_finite_value_and_gradient(name: str, case: str) -> None:
    student, teacher, label = DEGENERATE[case]
    loss = build(name)
    student = student.clone().requires_grad_()
    value = value_of(name, loss, student, teacher, label)
    value.backward()
    assert value.isfinite()
    for x in (student, *loss.parameters()):
        assert x.grad is not None
        assert x.grad.isfinite().all()
    assert all(x.isfinite().all() for x in loss.buffers())
    if case == 'half of zeros':
        # Where there is no direction there is none to change: no division by what is tiny.
        assert student.grad is not None
        assert student.grad.abs().max() < 1e3


@pytest.mark.parametrize('name', [name for name in TABLE if build(name).state_dict()])
def test_a_state_that_is_loaded_goes_on_to_the_bit(name: str) -> None:
    def step(loss: nn.Module, index: int) -> Tensor:
        student, teacher = random_maps(MAP, channels=CHANNELS, seed=index)
        for parameter in loss.parameters():
            parameter.grad = None
        value = value_of(name, loss, student.float(), teacher.float(), random_label(LABEL))
        if value.requires_grad:
            value.backward()
        with torch.no_grad():
            for parameter in loss.parameters():
                assert parameter.grad is not None
                parameter -= 0.01 * parameter.grad
        return value.detach()

    loss = build(name)
    fresh = copy.deepcopy(loss.state_dict())
    for index in range(2):
        step(loss, index)
    saved = copy.deepcopy(loss.state_dict())
    assert not all(torch.equal(saved[key], fresh[key]) for key in saved)
    other = build(name)
    other.load_state_dict(saved)
    for index in (2, 3):
        assert torch.equal(step(loss, index), step(other, index))
    assert all(
        torch.equal(a, b)
        for a, b in zip(loss.state_dict().values(), other.state_dict().values(), strict=True)
    )


@every_loss
def test_no_tensor_grows_with_the_labels(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for what is one number a pixel, such as a mask."""
    student, teacher = maps(images=1)
    held = []
    for side in (512, 1024):
        label = torch.zeros(1, side, side, dtype=torch.long)
        with Largest() as largest:
            value_and_gradient(
                lambda s, label=label: value_of(name, build(name), s, teacher, label), student
            )
        held.append(largest.values)
    assert held[1] <= max(held[0], 1024**2)


@every_loss
def test_a_docstring_has_what_the_page_is_made_of(name: str) -> None:
    lines = (inspect.getdoc(KD_LOSSES.get(name)) or '').splitlines()
    for beginning in ('.. math::', 'Taps: ', 'Choose it ', 'Reference: '):
        assert any(line.startswith(beginning) for line in lines), beginning
