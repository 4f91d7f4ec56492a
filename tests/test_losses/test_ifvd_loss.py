from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import random_label, random_maps, value_and_gradient
from torch import Tensor

from mmseg_kd.losses import IFVDLoss, KLLoss
from mmseg_kd.losses.functional import class_similarity


def plain_similarity(x: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """The same with a loop over images and classes, as the definition reads."""
    similarity = torch.ones_like(x[:, 0])
    for n in range(len(x)):
        for k in range(num_classes):
            where = label[n] == k
            if where.any():
                centre = x[n][:, where].mean(1, keepdim=True)
                similarity[n][where] = F.cosine_similarity(x[n][:, where], centre, dim=0)
    return similarity


def test_by_hand() -> None:
    # Two pixels of one class: orthogonal in the student, parallel in the teacher.
    student = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]], dtype=torch.float64)
    teacher = torch.tensor([[[[1.0, 2.0]], [[1.0, 2.0]]]], dtype=torch.float64)
    label = torch.zeros(1, 1, 2, dtype=torch.long)
    value, _ = value_and_gradient(IFVDLoss(1.0, kl_weight=0), student, teacher, label)
    assert math.isclose(value, (1 - math.sqrt(0.5)) ** 2)


@pytest.mark.parametrize('num_classes', [255, 4, 1])
def test_similarity_is_that_of_the_loop(num_classes: int) -> None:
    x, _ = random_maps((5, 6), channels=7)
    label = random_label((5, 6))
    weights = torch.rand(2, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(
        value_and_gradient(lambda x: (weights * class_similarity(x, label, num_classes)).sum(), x),
        value_and_gradient(lambda x: (weights * plain_similarity(x, label, num_classes)).sum(), x),
    )


def test_classes_of_different_images_have_centres_of_their_own() -> None:
    x, _ = random_maps()
    label = torch.zeros(2, 3, 4, dtype=torch.long)
    both = class_similarity(x, label, 255)
    each = [class_similarity(x[n : n + 1], label[n : n + 1], 255) for n in range(2)]
    torch.testing.assert_close(both, torch.cat(each))


@pytest.mark.parametrize('label', [255, -100, 300])
def test_a_pixel_without_a_class_counts_as_equal(label: int) -> None:
    x, _ = random_maps()
    labels = torch.full((2, 3, 4), label)
    assert torch.equal(class_similarity(x, labels, 255), torch.ones(2, 3, 4, dtype=x.dtype))


def test_a_vector_of_zeros_has_a_finite_gradient() -> None:
    x = torch.zeros(1, 3, 2, 2, dtype=torch.float64)
    value, gradient = value_and_gradient(
        lambda x: class_similarity(x, torch.zeros(1, 2, 2, dtype=torch.long), 5).sum(), x
    )
    assert value == 0
    assert gradient.isfinite().all()


@pytest.mark.parametrize('ignore_index', [None, 255])
def test_variation_and_kl(ignore_index: int | None) -> None:
    student, teacher = random_maps()
    label = random_label((3, 4))
    keep = torch.ones_like(label, dtype=torch.bool) if ignore_index is None else label != 255
    options: dict[str, Any] = dict(tau=2.0, ignore_index=ignore_index, resolution='student')

    def formula(student: Tensor) -> Tensor:
        ours, theirs = (plain_similarity(x, label, 255) for x in (student, teacher))
        variation = (ours - theirs).square()[keep].mean()
        return 4.0 * variation + 0.5 * KLLoss(**options)(student, teacher, label)

    loss = IFVDLoss(4.0, 0.5, **options)
    torch.testing.assert_close(
        value_and_gradient(lambda s: loss(s, teacher, label), student),
        value_and_gradient(formula, student),
    )


def test_labels_go_to_the_students_size() -> None:
    student, teacher = random_maps()
    label = random_label((3, 4))
    fine = label.repeat_interleave(3, 1).repeat_interleave(2, 2)
    assert torch.equal(IFVDLoss()(student, teacher, fine), IFVDLoss()(student, teacher, label))


def test_equal_inputs_give_zero() -> None:
    student, _ = random_maps()
    value, gradient = value_and_gradient(IFVDLoss(), student, student.clone(), random_label((3, 4)))
    assert abs(value) < 1e-15
    assert gradient.abs().max() < 1e-15


def test_all_ignored_gives_zero() -> None:
    student, teacher = random_maps()
    value, gradient = value_and_gradient(
        IFVDLoss(ignore_index=255), student, teacher, torch.full((2, 7, 9), 255)
    )
    assert value == 0
    assert not gradient.any()


def test_half_precision_is_computed_in_float32() -> None:
    student, teacher = (x.half() for x in random_maps())
    label = random_label((3, 4))
    exact = IFVDLoss()(student.double(), teacher.double(), label)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        value, gradient = value_and_gradient(IFVDLoss(), student, teacher, label)
    torch.testing.assert_close(value, exact.float(), rtol=1e-4, atol=0)
    assert gradient.isfinite().all()


def test_labels_are_needed() -> None:
    with pytest.raises(ValueError, match='IFVDLoss needs labels'):
        IFVDLoss()(*random_maps())


@pytest.mark.parametrize(
    ('argument', 'value'), [('variation_weight', -1.0), ('kl_weight', 'a'), ('num_classes', 0)]
)
def test_wrong_argument(argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f'{argument}.*{re.escape(repr(value))}'):
        IFVDLoss(**{argument: value})
