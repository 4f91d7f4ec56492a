from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import plain_resize, random_maps, value_and_gradient
from torch import Tensor
from vectors import arrays, cases, check, inputs_of

from mmseg_kd.connectors import ConvConnector
from mmseg_kd.losses import FeatureLoss

# One image, two channels, two positions: differences 1, 0 and 0, 3.
STUDENT = torch.tensor([[[[3.0, 0.0]], [[4.0, 2.0]]]], dtype=torch.float64)
TEACHER = torch.tensor([[[[4.0, 0.0]], [[4.0, 5.0]]]], dtype=torch.float64)
R = math.sqrt(0.5)


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        (dict(), (1 + 9) / 4),
        (dict(distance='smooth_l1'), (0.5 + 2.5) / 4),
        (dict(distance='smooth_l1', beta=2.0), (0.25 + 2.0) / 4),
        (dict(distance='smooth_l1', beta=0.0), (1 + 3) / 4),
        (dict(distance='cosine'), (1 - 28 / (5 * math.sqrt(32))) / 2),
        (dict(student_norm='pixel'), (3.4**2 + 3.2**2 + 4.0**2) / 4),
        # The teacher's channels become (r, -r) and (-r, r), with r the root of 1/2.
        (dict(teacher_norm='channel'), ((3 - R) ** 2 + R**2 + (4 + R) ** 2 + (2 - R) ** 2) / 4),
    ],
)
def test_by_hand(options: Any, expected: float) -> None:
    value = FeatureLoss(**options)(STUDENT, TEACHER).item()
    assert value == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('resolution', ['student', 'teacher'])
def test_maps_of_two_sizes(resolution: Any) -> None:
    student, teacher = random_maps((3, 4), (5, 3))
    size = dict(student=(3, 4), teacher=(5, 3))[resolution]

    def formula(student: Tensor) -> Tensor:
        return (plain_resize(student, size) - plain_resize(teacher, size)).square().mean()

    torch.testing.assert_close(
        value_and_gradient(FeatureLoss(resolution=resolution), student, teacher),
        value_and_gradient(formula, student),
    )


@pytest.mark.parametrize('size', [(1, 1), (3, 4)])
@pytest.mark.parametrize('norm', ['pixel', 'channel'])
def test_features_without_a_direction_give_no_gradient(norm: Any, size: tuple[int, int]) -> None:
    student, teacher = torch.zeros(1, 5, *size), torch.randn(1, 5, *size)
    loss = FeatureLoss(student_norm=norm, teacher_norm=norm)
    value, gradient = value_and_gradient(loss, student, teacher)
    assert value.isfinite()
    assert not gradient.any()


def test_the_cosine_of_large_half_precision_features() -> None:
    student, teacher = (4e3 * x.half() for x in random_maps())
    exact = (1 - F.cosine_similarity(student.double(), teacher.double(), dim=1)).mean()
    value, gradient = value_and_gradient(FeatureLoss('cosine'), student, teacher)
    torch.testing.assert_close(value, exact.float())
    assert gradient.isfinite().all()


def test_shapes_that_do_not_match() -> None:
    student, teacher = random_maps()
    with pytest.raises(ValueError, match=r'same batch and channels.*\(2, 5, 3, 4\) and \(2, 4, 3'):
        FeatureLoss()(student, teacher[:, :4])
    with pytest.raises(ValueError, match=r'maps \(N, C, h, w\)'):
        FeatureLoss()(student[0], teacher[0])


@pytest.mark.parametrize(
    ('argument', 'value'),
    [('distance', 'l2'), ('student_norm', 'l2'), ('teacher_norm', ''), ('beta', -1.0)],
)
def test_wrong_argument(argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f'{argument}.*{value}'):
        FeatureLoss(**{argument: value})


@pytest.mark.parametrize('case', cases('more.json', 'fitnet_cirkd'))
def test_fitnet_of_cirkd(case: dict[str, Any]) -> None:
    def value_of(x: dict[str, Tensor]) -> Tensor:
        theirs, ours = x['fitnet_weight'].shape[:2]
        weights = {'conv.weight': x['fitnet_weight'], 'conv.bias': x['student'].new_zeros(theirs)}
        connector = ConvConnector(ours, theirs)
        student = torch.func.functional_call(connector, weights, x['student'])
        return FeatureLoss()(student, x['teacher'])

    check(case, value_of, inputs_of(case))


@pytest.mark.parametrize('case', cases('more.json', 'l2_mmrazor_1', 'l2_mmrazor_2'))
def test_l2_of_mmrazor(case: dict[str, Any]) -> None:
    inputs = inputs_of(case)
    factor = 1 if case['id'].endswith('2') else inputs['student'][0].numel()
    check(case, lambda x: factor * FeatureLoss()(x['student'], x['teacher']), inputs)


@pytest.mark.parametrize('case', cases('more.json', 'l1_mmrazor'))
def test_l1_of_mmrazor(case: dict[str, Any]) -> None:
    loss = FeatureLoss('smooth_l1', beta=0.0)
    check(case, lambda x: loss(x['student'], x['teacher']), inputs_of(case))


@pytest.mark.parametrize('case', cases('peers.json', 'Pearson feature imitation (PKD)'))
def test_pkd_is_half_of_this_on_standardised_channels(case: dict[str, Any]) -> None:
    loss = FeatureLoss(student_norm='channel', teacher_norm='channel')
    check(case, lambda x: loss(x['student'], x['teacher']) / 2, arrays('peers.npz'))
