from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import (
    plain_divergence,
    plain_group_loss,
    plain_nearest,
    plain_resize,
    random_label,
    random_maps,
)

from mmseg_kd.losses import functional
from mmseg_kd.losses.functional import (
    at_least_float32,
    group_divergence,
    pixel_divergence,
    resize_label,
    resize_map,
    softmax_divergence,
)
from mmseg_kd.losses.kernels import dispatch, piecewise, triton_divergence

SIZES = [(3, 4), (6, 8), (7, 9), (2, 3), (1, 1), (4, 3), (3, 13)]


@pytest.mark.parametrize(
    ('given', 'expected'),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_at_least_float32(given: torch.dtype, expected: torch.dtype) -> None:
    assert at_least_float32(torch.zeros(1, dtype=given)).dtype == expected


@pytest.mark.parametrize('size', SIZES)
def test_resize_map(size: tuple[int, int]) -> None:
    x, _ = random_maps((3, 4))
    torch.testing.assert_close(resize_map(x, size), plain_resize(x, size))


@pytest.mark.parametrize('size', SIZES)
def test_resize_label(size: tuple[int, int]) -> None:
    label = random_label((3, 4))
    resized = resize_label(label, size)
    assert resized.dtype == label.dtype
    assert torch.equal(resized, plain_nearest(label, size))


@pytest.mark.parametrize('dtype', [torch.uint8, torch.int32, torch.int64])
def test_resize_label_keeps_every_index(dtype: torch.dtype) -> None:
    label = torch.tensor([[[0, torch.iinfo(dtype).max >> 11], [254, 255]]]).to(dtype)
    expected = label.repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert torch.equal(resize_label(label, (4, 4)), expected)


def test_softmax_divergence_by_hand() -> None:
    student = torch.zeros(3, 2, dtype=torch.float64)
    teacher = torch.tensor([[0.0, math.log(3)], [4.0, 4.0], [math.log(9), 0.0]]).double()
    expected = [
        0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5),
        0.0,
        0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5),
    ]
    actual = softmax_divergence(student, teacher, tau=1.0, dim=1)
    torch.testing.assert_close(actual, torch.tensor(expected).double(), atol=1e-7, rtol=1e-6)


def test_softmax_divergence_divides_by_tau() -> None:
    student, teacher = random_maps()
    torch.testing.assert_close(
        softmax_divergence(student, teacher, tau=4.0, dim=1),
        softmax_divergence(student / 4, teacher / 4, tau=1.0, dim=1),
    )


def test_softmax_divergence_of_masked_positions() -> None:
    student, teacher = random_maps((1, 1), channels=6, images=1)
    student, teacher = student.flatten(), teacher.flatten()
    mask = torch.tensor([True, False, True, True, False, True])
    torch.testing.assert_close(
        softmax_divergence(student, teacher, tau=2.0, dim=0, mask=mask),
        plain_divergence(student[mask], teacher[mask], 2.0),
    )


@pytest.mark.parametrize('offset', [-1e12, -1e5, 1e5, 1e12])
def test_softmax_divergence_of_masked_positions_among_extreme_ones(offset: float) -> None:
    student, teacher = (x.flatten() for x in random_maps((1, 1), channels=6, images=1))
    mask = torch.tensor([True, False, True, True, False, True])
    torch.testing.assert_close(
        softmax_divergence(student + offset, teacher + offset, tau=1.0, dim=0, mask=mask),
        plain_divergence(student[mask], teacher[mask], 1.0),
        rtol=1e-3,
        atol=0.0,
    )


@pytest.mark.filterwarnings('ignore:Anomaly Detection')
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_softmax_divergence_without_any_position(dtype: torch.dtype) -> None:
    student = torch.tensor([[1e4, -1e4, 0.0]], dtype=dtype, requires_grad=True)
    nowhere = torch.zeros(1, 3, dtype=torch.bool)
    with torch.autograd.detect_anomaly(check_nan=True):  # no NaN on the way either
        divergence = softmax_divergence(student, -student.detach(), tau=0.01, dim=1, mask=nowhere)
        divergence.sum().backward()
    assert divergence.item() == 0.0
    assert student.grad is not None
    assert torch.equal(student.grad, torch.zeros_like(student))


def test_softmax_divergence_is_never_negative() -> None:
    for seed in range(20):
        student, teacher = random_maps(seed=seed)
        assert softmax_divergence(student, teacher, tau=1.0, dim=1).min() >= 0


def test_pixel_divergence_is_the_mean_over_the_mask() -> None:
    student, teacher = random_maps()
    mask = random_label((3, 4)) != 255
    each = softmax_divergence(student, teacher, tau=1.0, dim=1)
    torch.testing.assert_close(pixel_divergence(student, teacher, tau=1.0), each.mean())
    torch.testing.assert_close(
        pixel_divergence(student, teacher, tau=1.0, mask_NHW=mask), each[mask].mean()
    )


@pytest.mark.parametrize(('channels', 'group_size'), [(6, 2), (6, 4), (6, 6), (6, 9), (1, 1)])
def test_group_divergence(channels: int, group_size: int) -> None:
    student, teacher = random_maps(channels=channels)
    mask = random_label((3, 4)) != 255
    everywhere = torch.ones_like(mask)
    torch.testing.assert_close(
        group_divergence(student, teacher, group_size=group_size, tau=1.0),
        plain_group_loss(student, teacher, 1.0, everywhere, group_size),
    )
    torch.testing.assert_close(
        group_divergence(student, teacher, group_size=group_size, tau=1.0, mask_NHW=mask),
        plain_group_loss(student, teacher, 1.0, mask, group_size),
    )


@pytest.mark.parametrize('divergence', [pixel_divergence, group_divergence])
def test_maps_are_brought_to_a_size(divergence: Callable[..., Any]) -> None:
    student, teacher = random_maps((3, 4), (5, 3))
    size = (6, 8)
    options: dict[str, Any] = dict(tau=2.0, mask_NHW=random_label(size) != 255)
    if divergence is group_divergence:
        options['group_size'] = 2
    torch.testing.assert_close(
        divergence(student, teacher, size=size, **options),
        divergence(plain_resize(student, size), plain_resize(teacher, size), **options),
    )


@pytest.mark.parametrize(
    ('divergence', 'options'),
    [
        (softmax_divergence, dict(dim=1)),
        (pixel_divergence, {}),
        (group_divergence, dict(group_size=2)),
        (dispatch.group_divergence_at, dict(size=(3, 4), group_size=2)),
    ],
)
def test_one_teacher_or_several(divergence: Callable[..., Any], options: dict[str, Any]) -> None:
    student, teacher = random_maps()
    one = divergence(student, teacher, tau=2.0, **options)
    torch.testing.assert_close(divergence(student, [teacher], tau=2.0, **options), one)
    # The mean of two equal distributions is either.
    torch.testing.assert_close(divergence(student, [teacher, teacher], tau=2.0, **options), one)
    _, other = random_maps(seed=1)
    two = divergence(student, (teacher, other), tau=2.0, **options)
    assert not torch.isclose(two, one, rtol=1e-3).all()


@pytest.mark.parametrize('module', [functional, dispatch, piecewise, triton_divergence])
def test_all_divergences_are_called_alike(module: Any) -> None:
    # Of its own, or made for it of what all backends share.
    found = [
        f
        for name, f in vars(module).items()
        if 'divergence' in name
        and not name.startswith('_')
        and (inspect.ismethod(f) or (inspect.isfunction(f) and f.__module__ == module.__name__))
    ]
    assert len(found) >= 2
    for divergence in found:
        first, second, *options = inspect.signature(divergence).parameters.values()
        assert first.name.startswith('student')
        assert second.name.startswith('teacher')
        assert all(option.kind is option.KEYWORD_ONLY for option in options)
        names = {'size', 'group_size', 'tau', 'dim', 'mask', 'mask_NHW', 'align_corners'}
        assert {option.name for option in options} <= names
