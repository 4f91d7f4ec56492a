from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import kept, plain_resize, random_label, random_maps, value_and_gradient
from torch import Tensor
from vectors import cases, check, inputs_of

from mmseg_kd.losses import JaccardLoss, KLLoss

NAMES = dict(mIoUD='batch_weight', mIoUI='image_weight', mIoUC='class_weight', log_loss='log')


def published(case: dict[str, Any]) -> JaccardLoss:
    params = dict(case['params']) if 'params' in case else {}
    # Without it the threshold is of no influence.
    is_present = params.pop('active_classes_mode_soft', 'ALL') == 'PRESENT'
    threshold = params.pop('threshold', None)
    return JaccardLoss(
        **{NAMES.get(name, name): value for name, value in params.items()},
        label_weight=float(case['id'] == 'jdt_hard'),
        threshold=threshold if is_present else None,
        ignore_index=255 if 'labels' in case['inputs'] else None,
        resolution='student',
    )


@pytest.mark.parametrize(
    'case',
    cases(
        'more.json',
        'jdt_jaccard*',
        'jdt_dice*',
        'jdt_present',
        'jdt_log_gamma',
        'jdt_norm2',
        'jdt_hard',
    ),
)
def test_published(case: dict[str, Any]) -> None:
    loss = published(case)
    x = inputs_of(case)
    check(case, lambda x: loss(x['student'], x['teacher'], x.get('labels')), x)


@pytest.mark.parametrize('case', cases('more.json', 'jdt_kl'))
def test_the_divergence_beside_it(case: dict[str, Any]) -> None:
    loss = KLLoss(tau=case['tau'], tau_squared=True, ignore_index=255)
    check(case, lambda x: loss(x['student'], x['teacher'], x['labels']), inputs_of(case))


def plain_loss(student: Tensor, teacher: Tensor, keep: Tensor) -> Tensor:
    p, y = (x.softmax(1).transpose(0, 1)[:, keep] for x in (student, teacher))
    both = (p.sum(1) + y.sum(1) - (p - y).abs().sum(1)) / 2
    return (1 - (both + 1e-3) / (p.sum(1) + y.sum(1) - both + 1e-3)).mean()


@pytest.mark.parametrize('ignore_index', [None, 255])
@pytest.mark.parametrize('size', [(3, 4), (7, 9)])
def test_formula(size: tuple[int, int], ignore_index: int | None) -> None:
    student, teacher = random_maps((3, 4), (5, 3))
    label = random_label(size)
    keep = kept(label, ignore_index)
    torch.testing.assert_close(
        value_and_gradient(JaccardLoss(ignore_index=ignore_index), student, teacher, label),
        value_and_gradient(
            lambda s: plain_loss(plain_resize(s, size), plain_resize(teacher, size), keep),
            student,
        ),
        rtol=1e-10,
        atol=1e-14,
    )


def test_by_hand() -> None:
    # Student (1/2, 1/2), teacher (1/4, 3/4): overlap 1/4 of 1/2, and 1/2 of 3/4.
    student = torch.zeros(1, 2, 1, 1).double()
    teacher = torch.tensor([1.0, 3.0]).double().log().view(1, 2, 1, 1)
    label = torch.ones(1, 1, 1, dtype=torch.long)
    value = JaccardLoss(smooth=1e-12)(student, teacher, label)
    assert value.item() == pytest.approx((1 - 1 / 2 + 1 - 2 / 3) / 2)
    # With the label class 1 alone is there: overlap 1/2 of 1.
    mixed = JaccardLoss(0.25, smooth=1e-12)(student, teacher, label)
    assert mixed.item() == pytest.approx(0.75 * 5 / 12 + 0.25 / 2)


def test_an_image_without_any_class_is_left_out() -> None:
    student, teacher = random_maps()
    label = random_label((3, 4))
    label[1] = 255
    options: dict[str, Any] = dict(ignore_index=255, batch_weight=0.0, threshold=0.0)
    for loss in (
        JaccardLoss(image_weight=1.0, **options),
        JaccardLoss(class_weight=1.0, **options),
    ):
        torch.testing.assert_close(
            loss(student, teacher, label), loss(student[:1], teacher[:1], label[:1])
        )


def test_one_channel_is_a_sigmoid() -> None:
    student, teacher = (x[:, :1] for x in random_maps())
    label = random_label((3, 4)) % 2
    p, y = (x.sigmoid() for x in (student, teacher))
    foreground = (torch.minimum(p, y).sum() + 1) / (torch.maximum(p, y).sum() + 1)
    background = (torch.minimum(1 - p, 1 - y).sum() + 1) / (torch.maximum(1 - p, 1 - y).sum() + 1)
    torch.testing.assert_close(
        JaccardLoss(smooth=1.0)(student, teacher, label), 1 - (foreground + background) / 2
    )


def test_labels_are_needed_for_their_part() -> None:
    maps = random_maps()
    assert JaccardLoss(resolution='student')(*maps) > 0
    with pytest.raises(ValueError, match='labels are needed'):
        JaccardLoss(0.5, resolution='student')(*maps)


@pytest.mark.parametrize(
    'argument', [dict(smooth=0), dict(norm=0.5), dict(gamma=0.5), dict(threshold=2), dict(log=1)]
)
def test_wrong_argument(argument: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(argument))):
        JaccardLoss(**argument)
