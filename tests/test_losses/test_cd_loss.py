from __future__ import annotations

import math

import torch
from conftest import LogitLossChecks, plain_group_loss, random_maps, value_and_gradient
from torch import Tensor

from mmseg_kd.losses import CDLoss


def plain_loss(student: Tensor, teacher: Tensor, tau: float, keep: Tensor) -> Tensor:
    return plain_group_loss(student, teacher, tau, keep, group_size=1)


class TestLogitLoss(LogitLossChecks):
    make = CDLoss
    plain = staticmethod(plain_loss)


def test_by_hand() -> None:
    # Student (1/2, 1/2) and teacher (1/4, 3/4) over two pixels in one channel, equal in the other.
    student = torch.zeros(1, 2, 1, 2, dtype=torch.float64)
    teacher = torch.tensor([[[[0.0, math.log(3)]], [[7.0, 7.0]]]], dtype=torch.float64)
    value, gradient = value_and_gradient(CDLoss(resolution='student'), student, teacher)
    expected = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert math.isclose(value, expected / 2, rel_tol=1e-12)
    expected_gradient = torch.tensor([[[[0.125, -0.125]], [[0.0, 0.0]]]], dtype=torch.float64)
    torch.testing.assert_close(gradient, expected_gradient)


def test_same_score_added_to_all_pixels_changes_nothing() -> None:
    student, teacher = random_maps()
    offset = torch.arange(5.0, dtype=torch.float64).view(5, 1, 1)
    loss = CDLoss(resolution='student')
    torch.testing.assert_close(loss(student + offset, teacher), loss(student, teacher))


def test_order_of_pixels_and_channels_does_not_matter() -> None:
    student, teacher = random_maps()
    loss = CDLoss(resolution='student')
    turned = loss(student.flip(1, 3), teacher.flip(1, 3))
    torch.testing.assert_close(turned, loss(student, teacher))
