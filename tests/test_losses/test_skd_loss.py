from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from vectors import arrays, cases, check, inputs_of

from mmseg_kd.losses import SKDLoss


@pytest.mark.parametrize('case', cases('more.json', 'skd_pair*'))
def test_published_values(case: dict[str, Any]) -> None:
    loss = SKDLoss(pool=case['params']['scale'], detach_norm=True) if case else None
    check(case, lambda x: loss(x['student'], x['teacher']), inputs_of(case))


@pytest.mark.parametrize('case', cases('peers.json', 'pair-wise similarity*'))
def test_published_values_of_patches(case: dict[str, Any]) -> None:
    found = arrays('peers.npz')
    inputs = {role: found[role] for role in ('student', 'teacher')}
    check(case, lambda x: SKDLoss()(x['student'], x['teacher']), inputs)


def test_a_number_worked_out_by_hand() -> None:
    # Two nodes: alike for the teacher, at right angles for the student; so 2 of 4 cosines differ.
    student = torch.tensor([[3.0, 0.0], [0.0, 5.0]]).view(1, 2, 1, 2)
    teacher = torch.tensor([[2.0, 4.0]]).view(1, 1, 1, 2)
    assert SKDLoss(pool=1)(student, teacher).item() == pytest.approx(0.5)


def test_a_node_is_the_maximum_over_its_patch() -> None:
    maps = torch.randn(2, 2, 3, 6, 6, dtype=torch.float64)
    nodes = maps.unflatten(3, (2, 3)).unflatten(5, (2, 3)).amax((4, 6))
    torch.testing.assert_close(SKDLoss(pool=3)(*maps), SKDLoss(pool=1)(*nodes))
    torch.testing.assert_close(SKDLoss(pool=0.5)(*maps), SKDLoss(pool=1)(*nodes))


@pytest.mark.parametrize(('argument', 'value'), [('pool', 0), ('pool', 1.5), ('detach_norm', 1)])
def test_wrong_argument(argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f'{argument}.*{re.escape(repr(value))}'):
        SKDLoss(**{argument: value})
