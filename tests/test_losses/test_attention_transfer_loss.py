from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import build, resnet, save_weights, term, train, wrapper_config
from conftest import random_maps, value_and_gradient
from vectors import arrays, cases, check

from mmseg_kd.losses import AttentionTransferLoss

# Means of the squares of the channels: (4, 3) and (5, 0), so (0.8, 0.6) and (1, 0).
STUDENT = torch.tensor([[[[2.0, -1.0]], [[-2.0, 1.0]], [[2.0, 7**0.5]]]], dtype=torch.float64)
TEACHER = torch.tensor([[[[1.0, 0.0]], [[3.0, 0.0]]]], dtype=torch.float64)


@pytest.mark.parametrize(('squared', 'expected'), [(False, math.sqrt(0.4)), (True, 0.2)])
def test_by_hand_between_different_channels(squared: bool, expected: float) -> None:
    value = AttentionTransferLoss(squared=squared)(STUDENT, TEACHER)
    assert value.item() == pytest.approx(expected, rel=1e-12)


def test_power() -> None:
    # Means of the absolute values: (2, 1.548...) and (2, 0).
    value = AttentionTransferLoss(p=1)(STUDENT, TEACHER).item()
    x, y = 2.0, (2 + 7**0.5) / 3
    length = math.hypot(x, y)
    assert value == pytest.approx(math.hypot(x / length - 1, y / length), rel=1e-12)


def test_scale_does_not_matter() -> None:
    student, teacher = random_maps()
    loss = AttentionTransferLoss()
    torch.testing.assert_close(loss(7 * student, teacher / 3), loss(student, teacher))


def test_equal_maps_give_no_gradient() -> None:
    student, _ = random_maps()
    value, gradient = value_and_gradient(AttentionTransferLoss(), student, student.clone())
    assert value == 0
    assert not gradient.any()


@pytest.mark.parametrize('case', cases('peers.json', 'attention transfer'))
def test_cirkd(case: dict[str, Any]) -> None:
    loss = AttentionTransferLoss(squared=True)
    check(case, lambda x: loss(x['student'], x['teacher']), arrays('peers.npz'))


def test_a_term_adds_no_connector(tmp_path: Path) -> None:
    teacher = resnet(8)
    checkpoint = save_weights(teacher, tmp_path / 'teacher.pth')
    layer = 'backbone.layer1'
    one = term(layer, layer, 'AttentionTransferLoss')
    wrapper = build(wrapper_config(resnet(4), teacher, checkpoint, one))
    assert wrapper.terms['attentiontransfer'].connector is None
    train(wrapper, 1)


@pytest.mark.parametrize('p', [0, 1.5])
def test_wrong_power(p: Any) -> None:
    with pytest.raises(ValueError, match=f'p must be a whole number >= 1, got {p}'):
        AttentionTransferLoss(p=p)
