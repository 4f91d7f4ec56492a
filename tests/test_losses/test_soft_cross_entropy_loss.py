from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import kept, plain_resize, random_label, random_maps, value_and_gradient
from torch import Tensor
from vectors import cases, check, inputs_of

from mmseg_kd.losses import KLLoss, SoftCrossEntropyLoss


@pytest.mark.parametrize('case', cases('more.json', 'skd_pixel'))
def test_published(case: dict[str, Any]) -> None:
    x = inputs_of(case)
    loss = SoftCrossEntropyLoss(resolution='student')
    # The code is not divided by the number of images.
    check(case, lambda x: len(x['student']) * loss(x['student'], x['teacher']), x)


def plain_loss(
    student: Tensor, teacher: Tensor, label: Tensor, share: float, tau: float, keep: Tensor
) -> Tensor:
    soft = F.cross_entropy(student / tau, (teacher / tau).softmax(1), reduction='none')
    hard = F.cross_entropy(student, label, ignore_index=255)
    return (1 - share) * soft[keep].mean() * tau**2 + share * hard


@pytest.mark.parametrize('ignore_index', [None, 255])
@pytest.mark.parametrize('share', [0.0, 0.3, 1.0])
@pytest.mark.parametrize('size', [(3, 4), (7, 9)])
def test_formula(size: tuple[int, int], share: float, ignore_index: int | None) -> None:
    student, teacher = random_maps((3, 4), (5, 3))
    label = random_label(size)
    keep = kept(label, ignore_index)
    loss = SoftCrossEntropyLoss(share, tau=2.0, tau_squared=True, ignore_index=ignore_index)
    torch.testing.assert_close(
        value_and_gradient(loss, student, teacher, label),
        value_and_gradient(
            lambda s: plain_loss(
                plain_resize(s, size), plain_resize(teacher, size), label, share, 2.0, keep
            ),
            student,
        ),
        rtol=1e-10,
        atol=1e-14,
    )


def test_by_hand() -> None:
    # Student (1/2, 1/2), teacher (1/4, 3/4): log 2 whatever the target is.
    student = torch.zeros(1, 2, 1, 1).double()
    teacher = torch.tensor([1.0, 3.0]).double().log().view(1, 2, 1, 1)
    label = torch.ones(1, 1, 1, dtype=torch.long)
    value, gradient = value_and_gradient(SoftCrossEntropyLoss(0.5), student, teacher, label)
    torch.testing.assert_close(value, torch.tensor(2.0).double().log())
    # Half of (1/2 - 1/4, 1/2 - 3/4) and half of (1/2, 1/2 - 1).
    expected = torch.tensor([0.125 + 0.25, -0.125 - 0.25]).double().view(1, 2, 1, 1)
    torch.testing.assert_close(gradient, expected)


def test_the_labels_part_is_not_standardised() -> None:
    student, teacher = random_maps()
    label = random_label((3, 4))
    found = SoftCrossEntropyLoss(0.25, standardise=True)(student, teacher, label)
    soft = SoftCrossEntropyLoss(standardise=True)(student, teacher, label)
    hard = F.cross_entropy(student, label, ignore_index=255)
    torch.testing.assert_close(found, 0.75 * soft + 0.25 * hard)


def test_same_gradient_as_the_divergence() -> None:
    student, teacher = random_maps()
    label = random_label((7, 9))
    _, found = value_and_gradient(SoftCrossEntropyLoss(tau=3.0), student, teacher, label)
    _, expected = value_and_gradient(KLLoss(tau=3.0), student, teacher, label)
    torch.testing.assert_close(found, expected)


def test_several_teachers_are_averaged() -> None:
    student, teacher = random_maps()
    other = random_maps(seed=1)[1]
    loss = SoftCrossEntropyLoss(resolution='student')
    mean = ((teacher.softmax(1) + other.softmax(1)) / 2).log()
    torch.testing.assert_close(loss(student, [teacher, other]), loss(student, mean))


def test_one_channel_is_a_sigmoid() -> None:
    student, teacher = (x[:, :1] for x in random_maps())
    label = random_label((3, 4)) % 2
    found = SoftCrossEntropyLoss(0.5)(student, teacher, label)
    soft = F.binary_cross_entropy_with_logits(student, teacher.sigmoid())
    hard = F.binary_cross_entropy_with_logits(student[:, 0], label.double())
    torch.testing.assert_close(found, (soft + hard) / 2)


@pytest.mark.parametrize('share', [-0.1, 1.5, '1'])
def test_wrong_share(share: Any) -> None:
    with pytest.raises(ValueError, match='label_weight must be a number from 0 to 1'):
        SoftCrossEntropyLoss(share)
