from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from conftest import random_maps
from test_mgd_loss import with_generator
from torch import Tensor
from vectors import cases, check, inputs_of

from mmseg_kd.losses import AfDCDLoss


@pytest.mark.parametrize('case', cases('more.json', 'afdcd_*'))
def test_the_authors(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = inputs_of(case)
    is_contrast = '_ctr' in case['id']
    loss = AfDCDLoss(
        inputs['teacher'].shape[1],
        feature_weight=float(not is_contrast),
        contrast_weight=float(is_contrast),
        **case['params'],
    )
    monkeypatch.setattr(torch, 'rand', lambda shape, device: inputs['uniform'])
    check(case, lambda x: with_generator(loss, x), inputs)


def test_the_contrast_by_hand() -> None:
    """One patch of two positions, two groups of one channel, tau 1."""
    ours = torch.tensor([[[[1.0, 2.0]], [[3.0, 5.0]]]], dtype=torch.float64)
    theirs = torch.tensor([[[[1.5, 2.0]], [[4.0, 1.0]]]], dtype=torch.float64)
    loss = AfDCDLoss(2, groups=2, pool=0, tau=1.0, patch=(1, 2))
    # (position, group), its positive's distance, and those of the other group at both positions.
    anchors = [(0.5, 3, 0), (0.0, 2, 1), (1.0, 1.5, 1), (4.0, 3.5, 3)]
    expected = sum(
        positive + math.log(sum(math.exp(-x) for x in (positive, *others)))
        for positive, *others in anchors
    )
    assert loss._contrast(ours, theirs).item() == pytest.approx(expected / 2, rel=1e-12)


def test_pooling_takes_the_maximum_and_patches_leave_the_rest_out() -> None:
    ours, theirs = random_maps((7, 5), channels=4)
    loss = AfDCDLoss(4, groups=2, pool=2, patch=(2, 2))
    pooled = AfDCDLoss(4, groups=2, pool=1, patch=(2, 2))

    def maximum(x: Tensor) -> Tensor:
        # 3x2 squares fit, of which the patches take the first two rows.
        cells = x[..., :6, :4].unflatten(3, (2, 2)).unflatten(2, (3, 2))
        return cells.amax((3, 5))[:, :, :2]

    torch.testing.assert_close(
        loss._contrast(ours, theirs), pooled._contrast(maximum(ours), maximum(theirs))
    )


@pytest.mark.parametrize('size', [(1, 1), (2, 7)])
def test_maps_smaller_than_squares_and_patches(size: tuple[int, int]) -> None:
    student, teacher = (x.float() for x in random_maps(size, channels=16))
    assert AfDCDLoss(16)(student, teacher).isfinite()


def test_parts_are_one_sum() -> None:
    student, teacher = (x.float() for x in random_maps(channels=4))
    loss = AfDCDLoss(4, feature_weight=2.0, contrast_weight=3.0, groups=2, rand_mask=False)
    whole = loss(student, teacher)
    loss.contrast_weight = 0.0
    squares = loss(student, teacher)
    loss.feature_weight, loss.contrast_weight = 0.0, 3.0
    torch.testing.assert_close(whole, squares + loss(student, teacher))


@pytest.mark.parametrize(
    ('argument', 'value'), [('groups', 0), ('tau', 0), ('pool', -1), ('patch', 4), ('patch', (4,))]
)
def test_wrong_argument(argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f'{argument} .*{re.escape(repr(value))}'):
        AfDCDLoss(**{argument: value})


def test_groups_that_do_not_divide_the_channels() -> None:
    with pytest.raises(ValueError, match='groups=16 does not divide 24 channels'):
        AfDCDLoss().check_channels(24)
