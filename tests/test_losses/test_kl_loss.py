from __future__ import annotations

import math

import torch
from conftest import LogitLossChecks, plain_divergence, random_maps, value_and_gradient
from torch import Tensor

from mmseg_kd.losses import KLLoss


def plain_loss(student: Tensor, teacher: Tensor, tau: float, keep: Tensor) -> Tensor:
    """The divergence over the channels of each kept pixel, mean over these pixels."""
    n, _, h, w = student.shape
    values = [
        plain_divergence(student[a, :, i, j], teacher[a, :, i, j], tau)
        for a in range(n)
        for i in range(h)
        for j in range(w)
        if keep[a, i, j]
    ]
    return torch.stack(values).mean()


class TestLogitLoss(LogitLossChecks):
    make = KLLoss
    plain = staticmethod(plain_loss)


def test_by_hand() -> None:
    # Student (1/2, 1/2) and teacher (1/4, 3/4) at one pixel, equal ones at the other.
    student = torch.zeros(1, 2, 1, 2, dtype=torch.float64)
    teacher = torch.tensor([[[[0.0, 5.0]], [[math.log(3), 5.0]]]], dtype=torch.float64)
    value, gradient = value_and_gradient(KLLoss(resolution='student'), student, teacher)
    expected = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert math.isclose(value, expected / 2, rel_tol=1e-12)
    expected_gradient = torch.tensor([[[[0.125, 0.0]], [[-0.125, 0.0]]]], dtype=torch.float64)
    torch.testing.assert_close(gradient, expected_gradient)


def test_same_score_added_to_all_classes_changes_nothing() -> None:
    student, teacher = random_maps()
    offset = torch.arange(12.0, dtype=torch.float64).view(3, 4)
    loss = KLLoss(resolution='student')
    torch.testing.assert_close(loss(student + offset, teacher), loss(student, teacher))


def test_ignored_pixels_do_not_dilute_the_mean() -> None:
    student, teacher = random_maps(images=1)
    label = torch.full((1, 3, 4), 255)
    label[0, 1, 2] = 0
    value = KLLoss(resolution='student', ignore_index=255)(student, teacher, label)
    expected = plain_divergence(student[0, :, 1, 2], teacher[0, :, 1, 2], 1.0)
    torch.testing.assert_close(value, expected)
