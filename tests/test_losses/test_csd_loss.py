from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from conftest import random_maps
from vectors import arrays, cases, check

from mmseg_kd.losses import CSDLoss


def test_distributions_by_hand() -> None:
    # Student: (1/2, 1/2) twice; teacher: (1/4, 3/4) and (3/4, 1/4).
    student = torch.zeros(1, 2, 1, 2, dtype=torch.float64)
    a = 4 * math.log(3)
    teacher = torch.tensor([[[[0.0, a]], [[a, 0.0]]]], dtype=torch.float64)
    same, across = 10 / 16 - 1 / 2, 6 / 16 - 1 / 2
    value = CSDLoss(pool=1)(student, teacher).item()
    assert value == pytest.approx((2 * same**2 + 2 * across**2) / 4, rel=1e-12)


def test_cosines_by_hand() -> None:
    student = torch.tensor([[[[3.0, 4.0]], [[4.0, 3.0]]]], dtype=torch.float64)
    teacher = torch.tensor([[[[1.0, 0.0]], [[0.0, 9.0]]]], dtype=torch.float64)
    value = CSDLoss('cosine', pool=1)(student, teacher).item()
    assert value == pytest.approx(2 * (24 / 25) ** 2 / 4, rel=1e-12)


@pytest.mark.parametrize('similarity', ['distribution', 'cosine'])
def test_where_positions_are_does_not_matter(similarity: Any) -> None:
    student, teacher = random_maps((3, 5))
    loss = CSDLoss(similarity, pool=1)
    torch.testing.assert_close(loss(student.flip(3), teacher), loss(student, teacher))


def test_squares_at_the_edge_are_there() -> None:
    student, teacher = random_maps((3, 3))
    other = student.clone()
    other[..., 2, 2] += 1
    assert CSDLoss()(student, teacher) != CSDLoss()(other, teacher)


@pytest.mark.parametrize('case', cases('peers.json', 'channel-wise similarity (DSD CSD), tau 4'))
def test_cirkd(case: dict[str, Any]) -> None:
    check(case, lambda x: CSDLoss()(x['student'], x['teacher']), arrays('peers.npz'))
