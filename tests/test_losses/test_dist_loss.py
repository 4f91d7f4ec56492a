from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import kept, plain_resize, random_label, random_maps, value_and_gradient
from torch import Tensor
from vectors import arrays, cases, check, inputs_of

from mmseg_kd.losses import DISTLoss


@pytest.mark.parametrize('case', cases('more.json', 'dist', 'dist_weighted'))
def test_published(case: dict[str, Any]) -> None:
    loss = DISTLoss(case['params']['beta'], case['params']['gamma'])
    check(case, lambda x: loss(x['student'], x['teacher']), inputs_of(case))


@pytest.mark.parametrize('case', cases('more.json', 'dist_tau2'))
def test_published_by_mmrazor(case: dict[str, Any]) -> None:
    params = case['params']
    loss = DISTLoss(
        params['inter_loss_weight'],
        params['intra_loss_weight'],
        tau=params['tau'],
        tau_squared=True,
    )
    check(case, lambda x: loss(x['student'], x['teacher']), inputs_of(case))


@pytest.mark.parametrize('case', cases('peers.json', 'DIST on*'))
def test_published_by_mmrazor_too(case: dict[str, Any]) -> None:
    loss = DISTLoss(tau=case['tau'], tau_squared=True)
    check(case, lambda x: loss(x['student'], x['teacher']), arrays('peers.npz'))


@pytest.mark.parametrize('case', cases('more.json', 'dist_td', 'dist_plus_td'))
def test_published_by_torchdistill(case: dict[str, Any]) -> None:
    params = case['params']
    logits = DISTLoss(
        params['beta'],
        params['gamma'],
        tau=params['tau'],
        tau_squared=True,
        variant='torchdistill',
    )
    features = DISTLoss(0, 0, params.get('iota', 0), params.get('kappa', 0), variant='torchdistill')

    def value(x: dict[str, Tensor]) -> Tensor:
        # Scores of images, where those of pixels are not.
        loss = logits(
            *(
                x[key].view(*x[key].shape[:2], *x[key].shape[2:] or (1, 1))
                for key in ('student', 'teacher')
            )
        )
        if 'student_feat' in x:
            loss = loss + features(x['student_feat'], x['teacher_feat'])
        return loss

    check(case, value, inputs_of(case))


def pearson(a: Tensor, b: Tensor) -> Tensor:
    return torch.corrcoef(torch.stack([a, b]))[0, 1]


def plain_loss(student: Tensor, teacher: Tensor, tau: float, keep: Tensor) -> Tensor:
    p, q = ((x / tau).softmax(1).transpose(0, 1)[:, keep] for x in (student, teacher))
    inter = torch.stack([1 - pearson(a, b) for a, b in zip(p.T, q.T, strict=True)]).mean()
    intra = torch.stack([1 - pearson(a, b) for a, b in zip(p, q, strict=True)]).mean()
    return 2 * inter + 0.5 * intra


@pytest.mark.parametrize('ignore_index', [None, 255])
@pytest.mark.parametrize('size', [(3, 4), (7, 9)])
def test_formula(size: tuple[int, int], ignore_index: int | None) -> None:
    student, teacher = random_maps((3, 4), (5, 3))
    label = random_label(size)
    keep = kept(label, ignore_index)
    loss = DISTLoss(2.0, 0.5, tau=2.0, resolution='label', ignore_index=ignore_index)
    torch.testing.assert_close(
        value_and_gradient(loss, student, teacher, label),
        value_and_gradient(
            lambda s: plain_loss(plain_resize(s, size), plain_resize(teacher, size), 2.0, keep),
            student,
        ),
        # The formula has no term against a division by zero.
        rtol=1e-5,
        atol=1e-7,
    )


def test_what_goes_with_the_teacher_costs_nothing() -> None:
    # Two classes: probabilities p and 1 - p, over the pixels a line of the teacher's.
    p = torch.tensor([0.2, 0.4, 0.5, 0.9]).double()
    student, teacher = (torch.stack([x, 1 - x]).log().view(1, 2, 1, 4) for x in (p, 0.5 * p + 0.1))
    loss = DISTLoss(inter_weight=0.0)
    assert loss(student, teacher).abs() < 1e-6
    assert (loss(student, teacher.flip(1)) - 2).abs() < 1e-6


def test_the_correlations_of_channels_and_of_images() -> None:
    student, teacher = random_maps(images=4)
    channels = torch.stack(
        [
            1 - pearson(student[n, :, i, j], teacher[n, :, i, j])
            for n in range(4)
            for i in range(3)
            for j in range(4)
        ]
    ).mean()
    images = torch.stack(
        [
            1 - pearson(student[:, :, i, j].sum(1), teacher[:, :, i, j].sum(1))
            for i in range(3)
            for j in range(4)
        ]
    ).mean()
    found = DISTLoss(0, 0, channel_weight=2.0)(student, teacher)
    torch.testing.assert_close(found, 2 * channels, rtol=1e-6, atol=1e-8)
    found = DISTLoss(0, 0, spatial_weight=3.0)(student, teacher)
    torch.testing.assert_close(found, 3 * images, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('images', [1, 2])
def test_a_flat_student_has_no_gradient_that_is_too_large(images: int, dtype: torch.dtype) -> None:
    _, teacher = random_maps(images=images, channels=19)
    student = torch.zeros_like(teacher).to(dtype)
    loss = DISTLoss(channel_weight=1.0, spatial_weight=1.0)
    value, gradient = value_and_gradient(loss, student, teacher.to(dtype))
    assert value.item() == pytest.approx(4.0)
    assert gradient.abs().max() < 1e-3


@pytest.mark.parametrize('gap', [12.0, 16.0, 20.0])
def test_classes_that_are_nowhere(gap: float) -> None:
    """Their probabilities are all but 0, and so are the differences that are compared."""
    found = random_label((16, 16)).clamp(max=2)[:, None]
    student, teacher = (
        x.scatter_add(1, found, torch.full_like(x, gap)) for x in random_maps((16, 16), channels=19)
    )
    loss = DISTLoss(inter_weight=0.0)
    exact, slope = value_and_gradient(lambda s: loss(s, teacher), student)
    value, gradient = value_and_gradient(lambda s: loss(s, teacher.float()), student.float())
    torch.testing.assert_close(value.double(), exact, rtol=1e-4, atol=1e-6)
    assert (gradient - slope).norm() < 1e-2 * slope.norm()
