"""Pixels of which the teacher is not sure take no part."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import plain_nearest, random_label, random_maps, value_and_gradient
from torch import Tensor

from mmseg_kd.losses import ATLoss, CDLoss, CGDLoss, IFVDLoss, KLLoss

LOSSES = [
    KLLoss,
    CDLoss,
    lambda **kwargs: CGDLoss(group_size=2, **kwargs),
    ATLoss,
    lambda **kwargs: IFVDLoss(num_classes=5, **kwargs),
]


def ignoring(label: Tensor, teacher: Tensor, threshold: float) -> Tensor:
    """The label with 255 where a teacher's largest probability is below a threshold."""
    sure = teacher.softmax(1).amax(1) >= threshold
    assert 0 < sure.sum() < sure.numel()
    return label.masked_fill(~plain_nearest(sure.long(), label.shape[-2:]).bool(), 255)


@pytest.mark.parametrize('make', LOSSES)
def test_as_if_they_were_ignored(make: Any) -> None:
    student, teacher = random_maps((3, 4), (5, 3))
    label = random_label((7, 9))
    common = dict(tau=2.0, ignore_index=255, resolution='label')
    loss = make(min_confidence=0.8, **common)
    expected = make(**common)
    marked = ignoring(label, teacher, 0.8)
    if isinstance(loss, IFVDLoss):
        # What is left out still belongs to its class.
        student, teacher = (x[:, :, :3, :3] for x in (student, teacher))
        label = torch.full((2, 7, 9), -1)
        marked = ignoring(label, teacher, 0.8)
    torch.testing.assert_close(
        value_and_gradient(loss, student, teacher, label),
        value_and_gradient(expected, student, teacher, marked),
    )


def test_tau_and_logits_of_one_channel() -> None:
    student, teacher = (x[:, :1] for x in random_maps())
    sure = torch.maximum(teacher.sigmoid(), (-teacher).sigmoid())[:, 0] >= 0.9
    label = torch.zeros(2, 3, 4, dtype=torch.long).masked_fill(~sure, 255)
    loss = KLLoss(tau=7.0, min_confidence=0.9, resolution='student')
    expected = KLLoss(tau=7.0, ignore_index=255, resolution='student')
    torch.testing.assert_close(loss(student, teacher), expected(student, teacher, label))


def test_several_teachers_must_all_be_sure() -> None:
    student, first = random_maps()
    _, second = random_maps(seed=1)
    sure = torch.stack([x.softmax(1).amax(1) >= 0.6 for x in (first, second)]).all(0)
    label = torch.zeros(2, 3, 4, dtype=torch.long).masked_fill(~sure, 255)
    loss = CDLoss(min_confidence=0.6, resolution='student')
    expected = CDLoss(ignore_index=255, resolution='student')
    teachers = [first, second]
    torch.testing.assert_close(loss(student, teachers), expected(student, teachers, label))


def test_nobody_is_sure() -> None:
    student, teacher = random_maps()
    value, gradient = value_and_gradient(
        KLLoss(min_confidence=1.0, resolution='student'), student, teacher
    )
    assert value == 0
    assert not gradient.any()


@pytest.mark.parametrize('value', [-0.1, 1.1, '0.5', True])
def test_wrong_value(value: Any) -> None:
    with pytest.raises(ValueError, match='min_confidence must be a number from 0 to 1'):
        KLLoss(min_confidence=value)
