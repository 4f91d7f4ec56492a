from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from vectors import cases, check, inputs_of

from mmseg_kd.losses import RKDLoss


@pytest.mark.parametrize('case', cases('more.json', 'rkd_*'))
def test_published_values(case: dict[str, Any]) -> None:
    params, is_distance = case['params'], 'distance' in case['id']
    weights = (params.get('dist_factor', 25.0), params.get('angle_factor', 50.0))
    if case['id'] != 'rkd_td':
        weights = (weights[0], 0.0) if is_distance else (0.0, weights[1])
    loss = RKDLoss(*weights, 'images', grid=None, normalise=params.get('with_l2_norm', False))
    check(case, lambda x: loss(x['student'], x['teacher']), inputs_of(case))


def test_a_number_worked_out_by_hand() -> None:
    # Three images on a line, and in a triangle with the sides 3, 4 and 5.
    student = torch.tensor([[0.0], [1.0], [3.0]]).view(3, 1, 1, 1)
    teacher = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]]).view(3, 2, 1, 1)
    ours, theirs = [x / 2 for x in (1, 3, 2)], [x / 4 for x in (3, 4, 5)]
    distances = sum(2 * (a - b) ** 2 / 2 for a, b in zip(ours, theirs, strict=True)) / 9
    # At each corner the angle between the other two, which counts twice.
    cosines = [(1, 0), (-1, 3 / 5), (1, 4 / 5)]
    smooth = [abs(a - b) - 0.5 if abs(a - b) > 1 else (a - b) ** 2 / 2 for a, b in cosines]
    angles = sum(2 * x for x in smooth) / 27
    value = RKDLoss(2.0, 3.0, 'images')(student, teacher)
    torch.testing.assert_close(value.item(), 2 * distances + 3 * angles, rtol=1e-6, atol=0)


def test_regions_are_compared_inside_an_image() -> None:
    student, teacher = torch.randn(2, 2, 3, 8, 8, dtype=torch.float64)
    cells = [F.avg_pool2d(x, 4).flatten(2).mT[..., None, None] for x in (student, teacher)]
    each = [RKDLoss(relations='images', grid=None)(a, b) for a, b in zip(*cells, strict=True)]
    expected = torch.stack(each).mean()
    torch.testing.assert_close(RKDLoss(grid=2)(student, teacher), expected)


def test_neither_place_nor_scale_matter() -> None:
    maps = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    assert RKDLoss()(3 * maps + 5, maps).item() == pytest.approx(0, abs=1e-12)
    assert math.isfinite(RKDLoss(relations='images')(maps[:1], maps[:1]))


@pytest.mark.parametrize(
    ('argument', 'value'),
    [('relations', 'pixels'), ('grid', 0), ('grid', None), ('angle_weight', -1.0)],
)
def test_wrong_argument(argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f'{argument}.*{re.escape(repr(value))}'):
        RKDLoss(**{argument: value})
