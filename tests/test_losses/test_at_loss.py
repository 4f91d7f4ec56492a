from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from conftest import random_label, random_maps, value_and_gradient
from torch import Tensor

from mmseg_kd.losses import ATLoss, KLLoss


def plain_attention(student: Tensor, teacher: Tensor, keep: Tensor) -> Tensor:
    """The squared difference of the channels' mean, mean over kept pixels."""
    squares = [
        (student[n, :, i, j].mean() - teacher[n, :, i, j].mean()) ** 2
        for n, i, j in keep.nonzero().tolist()
    ]
    return torch.stack(squares).mean()


def test_by_hand() -> None:
    student = torch.tensor([[[[1.0, 2.0]], [[3.0, 2.0]]]], dtype=torch.float64)
    teacher = torch.tensor([[[[1.0, 5.0]], [[1.0, 5.0]]]], dtype=torch.float64)
    # Means over the channels: 2 and 2 against 1 and 5.
    value, gradient = value_and_gradient(ATLoss(kl_weight=0), student, teacher)
    assert math.isclose(value, (1 + 9) / 2)
    expected = torch.tensor([[[[0.5, -1.5]], [[0.5, -1.5]]]], dtype=torch.float64)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize('ignore_index', [None, 255])
@pytest.mark.parametrize(('attention_weight', 'kl_weight'), [(1.0, 1.0), (3.0, 0.5)])
def test_attention_and_kl(
    ignore_index: int | None, attention_weight: float, kl_weight: float
) -> None:
    student, teacher = random_maps()
    label = random_label((3, 4))
    keep = torch.ones_like(label, dtype=torch.bool) if ignore_index is None else label != 255
    options: dict[str, Any] = dict(tau=2.0, ignore_index=ignore_index, resolution='student')
    loss = ATLoss(attention_weight, kl_weight, **options)

    def formula(student: Tensor) -> Tensor:
        attention = plain_attention(student, teacher, keep)
        return attention_weight * attention + kl_weight * KLLoss(**options)(student, teacher, label)

    torch.testing.assert_close(
        value_and_gradient(lambda s: loss(s, teacher, label), student),
        value_and_gradient(formula, student),
    )


def test_equal_inputs_give_zero_and_no_gradient() -> None:
    student, _ = random_maps()
    value, gradient = value_and_gradient(ATLoss(), student, student.clone())
    assert value == 0
    assert gradient.abs().max() < 1e-15


def test_native_size_by_default_and_no_labels_needed() -> None:
    student, teacher = random_maps()
    assert torch.equal(ATLoss()(student, teacher), ATLoss()(student, teacher, random_label((9, 8))))
    assert ATLoss().resolution == 'student'


def test_all_ignored_gives_zero() -> None:
    student, teacher = random_maps()
    value, gradient = value_and_gradient(
        ATLoss(ignore_index=255), student, teacher, torch.full((2, 7, 9), 255)
    )
    assert value == 0
    assert not gradient.any()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    student, teacher = (x.to(dtype) for x in random_maps())
    exact = ATLoss()(student.double(), teacher.double())
    with torch.autocast('cpu', dtype=torch.bfloat16):
        value, gradient = value_and_gradient(ATLoss(), student, teacher)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, exact.float(), rtol=1e-5, atol=0)
    assert gradient.isfinite().all()


def test_gradient_to_the_student_only() -> None:
    student, teacher = (x.requires_grad_() for x in random_maps())
    ATLoss()(student, teacher).backward()
    assert student.grad is not None
    assert teacher.grad is None


@pytest.mark.parametrize('argument', ['attention_weight', 'kl_weight'])
@pytest.mark.parametrize('value', [-1.0, math.inf, '1'])
def test_wrong_argument(argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f'{argument}.*{re.escape(repr(value))}'):
        ATLoss(**{argument: value})
