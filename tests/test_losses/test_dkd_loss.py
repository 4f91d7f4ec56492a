from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from conftest import plain_divergence, plain_resize, random_label, random_maps, value_and_gradient
from torch import Tensor
from vectors import arrays, cases, check, inputs_of

from mmseg_kd.losses import DKDLoss, KLLoss


def plain_loss(
    student: Tensor, teacher: Tensor, label: Tensor, alpha: float, beta: float, tau: float
) -> Tensor:
    """The formula, pixel by pixel; labels that are no class are left out."""
    values = []
    for n, i, j in (label < student.shape[1]).nonzero().tolist():
        p, q = ((x[n, :, i, j] / tau).softmax(0) for x in (teacher, student))
        y = label[n, i, j]
        others = torch.arange(len(p)) != y
        target = p[y] * (p[y] / q[y]).log() + (1 - p[y]) * ((1 - p[y]) / (1 - q[y])).log()
        rest = plain_divergence(student[n, others, i, j], teacher[n, others, i, j], tau)
        values.append(alpha * target + beta * rest)
    return torch.stack(values).mean()


@pytest.mark.parametrize('case', cases('more.json', 'dkd_*'))
def test_published(case: dict[str, Any]) -> None:
    params = case['params']
    loss = DKDLoss(
        params['alpha'],
        params['beta'],
        tau=params['tau'],
        standardise=params.get('logit_stand', False),
        resolution='student',
    )
    x = inputs_of(case)
    # The code of mmrazor returns the sum over the pixels.
    weight = x['labels'].numel() if case['id'] == 'dkd_mmrazor' else 1
    check(case, lambda x: weight * loss(x['student'], x['teacher'], x['labels']), x)


@pytest.mark.parametrize('case', cases('peers.json', 'decoupled KD per pixel*'))
def test_published_by_mmrazor(case: dict[str, Any]) -> None:
    x = arrays('peers.npz')
    loss = DKDLoss(1.0, case['beta'], tau=case['tau'])
    check(case, lambda x: loss(x['student'], x['teacher'], x['labels']), x)


def test_by_hand() -> None:
    # Own class 0: the student has 1/2 and, of the others, 1/2 each; the teacher 1/4, 1/3 and 2/3.
    student = torch.tensor([2.0, 1.0, 1.0]).double().log().view(1, 3, 1, 1)
    teacher = torch.tensor([1.0, 1.0, 2.0]).double().log().view(1, 3, 1, 1)
    label = torch.zeros(1, 1, 1, dtype=torch.long)
    target = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    others = math.log(1 / 3 / 0.5) / 3 + math.log(2 / 3 / 0.5) * 2 / 3
    found = DKDLoss(alpha=3.0, beta=5.0, tau=1.0)(student, teacher, label)
    assert found.item() == pytest.approx(3 * target + 5 * others, rel=1e-12)


@pytest.mark.parametrize('ignore_index', [None, 255])
@pytest.mark.parametrize('size', [(3, 4), (7, 9)])
def test_formula_at_the_labels_size(size: tuple[int, int], ignore_index: int | None) -> None:
    student, teacher = random_maps((3, 4), (5, 3))
    label = random_label(size)
    loss = DKDLoss(0.5, 2.0, tau=3.0, tau_squared=False, ignore_index=ignore_index)
    torch.testing.assert_close(
        value_and_gradient(loss, student, teacher, label),
        value_and_gradient(
            lambda s: plain_loss(
                plain_resize(s, size), plain_resize(teacher, size), label, 0.5, 2.0, 3.0
            ),
            student,
        ),
        rtol=1e-10,
        atol=1e-14,
    )


def test_weights_of_the_divergence_itself() -> None:
    # KL = first part + probability of the others x second part (eq. 6), here with two classes.
    student, teacher = random_maps(channels=2)
    label = torch.ones(2, 3, 4, dtype=torch.long)
    torch.testing.assert_close(
        DKDLoss(beta=7.0, tau=2.0)(student, teacher, label),
        KLLoss(tau=2.0, tau_squared=True)(student, teacher, label),
    )


def test_one_channel_is_a_sigmoid() -> None:
    student, teacher = (x[:, :1] for x in random_maps())
    label = random_label((3, 4)) % 2
    torch.testing.assert_close(
        DKDLoss(tau=2.0)(student, teacher, label),
        KLLoss(tau=2.0, tau_squared=True)(student, teacher, label),
    )
    # The channel is that of class 1.
    two, others = (torch.cat([torch.zeros_like(x), x], 1) for x in (student, teacher))
    torch.testing.assert_close(
        DKDLoss(tau=2.0)(student, teacher, label), DKDLoss(tau=2.0)(two, others, label)
    )


def test_sure_scores() -> None:
    student, teacher = (1e4 * x.sign().float() for x in random_maps())
    value, gradient = value_and_gradient(DKDLoss(), student, teacher, random_label((6, 8)))
    assert value.isfinite()
    assert gradient.isfinite().all()


def test_several_teachers_are_averaged() -> None:
    student, teacher = random_maps()
    label = random_label((6, 8))
    loss = DKDLoss()
    one = loss(student, teacher, label)
    torch.testing.assert_close(loss(student, [teacher, teacher], label), one)
    other = random_maps(seed=1)[1]
    p, q = ((x / 4).softmax(1) for x in (teacher, other))
    mean = 4 * ((p + q) / 2).log()
    at_own_size = DKDLoss(resolution='student')
    torch.testing.assert_close(
        at_own_size(student, [teacher, other], label), at_own_size(student, mean, label)
    )


def test_labels_are_needed() -> None:
    with pytest.raises(ValueError, match='labels are needed'):
        DKDLoss(resolution='student')(*random_maps())
