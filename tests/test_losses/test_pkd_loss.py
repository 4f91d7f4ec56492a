from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import random_maps
from vectors import arrays, cases, check

from mmseg_kd.losses import PKDLoss


def test_by_hand() -> None:
    """Two channels of two positions, the first with opposite signs: 1 - r is 2 and 0."""
    student = torch.tensor([[[[1.0, 3.0]], [[0.0, 5.0]]]], dtype=torch.float64)
    teacher = torch.tensor([[[[7.0, -1.0]], [[2.0, 4.0]]]], dtype=torch.float64)
    # With the deviation of a sample of two, half of that: each is (n - 1) / n of it.
    assert PKDLoss()(student, teacher).item() == pytest.approx((2 + 0) / 2 / 2, rel=1e-5)


def test_one_minus_the_correlation_of_each_channel() -> None:
    student, teacher = random_maps((20, 20))
    loss = PKDLoss()(student, teacher)
    pairs = zip(student.unbind(1), teacher.unbind(1), strict=True)
    r = [torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1] for a, b in pairs]
    n = student[:, 0].numel()
    torch.testing.assert_close(loss, (n - 1) / n * (1 - torch.stack(r).mean()), rtol=1e-5, atol=0.0)


def test_level_and_scale_of_a_channel_do_not_matter() -> None:
    student, teacher = random_maps()
    scale = torch.arange(1.0, 6.0).view(1, 5, 1, 1)
    torch.testing.assert_close(
        PKDLoss()(scale * student - scale, 1000 * teacher + 3),
        PKDLoss()(student, teacher),
        rtol=1e-5,
        atol=0.0,
    )


@pytest.mark.parametrize('case', cases('peers.json', 'Pearson feature imitation (PKD)'))
def test_mmrazor(case: dict[str, Any]) -> None:
    check(case, lambda x: PKDLoss()(x['student'], x['teacher']), arrays('peers.npz'))
