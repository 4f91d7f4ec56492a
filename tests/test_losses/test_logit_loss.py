"""What all losses between logits have: standardised maps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import plain_resize, random_label, random_maps, value_and_gradient
from vectors import arrays, cases, check, inputs_of

from mmseg_kd.losses import CWD, CDLoss, CGDLoss, KLLoss, LogitLoss
from mmseg_kd.losses.functional import standardised_pixels
from mmseg_kd.registry import KD_LOSSES


@pytest.mark.parametrize('case', cases('more.json', 'logit_std_*'))
def test_standardised_as_published(case: dict[str, Any]) -> None:
    params = case['params']
    loss = KLLoss(
        tau=params['temperature'],
        tau_squared=case['id'] != 'logit_std_td',
        standardise=True,
        resolution='student',
    )

    def value(x: dict[str, torch.Tensor]) -> torch.Tensor:
        divergence = loss(x['student'], x['teacher'])
        if 'labels' not in x:
            return divergence
        hard = F.cross_entropy(x['student'], x['labels'])
        return params['alpha'] * hard + params['beta'] * divergence

    check(case, value, inputs_of(case))


def test_standardised_by_hand() -> None:
    x = torch.tensor([1.0, 2.0, 3.0]).double().view(1, 3, 1, 1)
    expected = torch.tensor([-1.0, 0.0, 1.0]).double().view(1, 3, 1, 1)
    torch.testing.assert_close(standardised_pixels(x), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize('kind', [KLLoss, CDLoss, CWD, CGDLoss])
def test_standardised_before_the_interpolation(kind: Any) -> None:
    student, teacher = random_maps((3, 4), (5, 3))
    label = random_label((7, 9))
    options: dict[str, Any] = dict(group_size=2) if kind is CGDLoss else {}
    found = kind(tau=2.0, standardise=True, **options)(student, teacher, label)
    s, t = (
        plain_resize((x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True), (7, 9))
        for x in (student, teacher)
    )
    expected = kind(tau=2.0, resolution='student', **options)(s, t, label)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    # Neither the size nor the level of the scores counts.
    other = kind(tau=2.0, standardise=True, **options)(3 * student + 5, teacher, label)
    torch.testing.assert_close(other, found, rtol=1e-5, atol=0)


@pytest.mark.parametrize('fill', [0.0, 0.1, 7.0])
def test_equal_scores_have_no_gradient(fill: float) -> None:
    student, teacher = (x.float() for x in random_maps())
    student[:, :, 0] = fill
    value, gradient = value_and_gradient(
        KLLoss(standardise=True, resolution='student'), student, teacher
    )
    assert value.isfinite()
    assert gradient[:, :, 0].abs().max() == 0
    assert 0 < gradient.abs().max() < 1


def test_one_channel_cannot_be_standardised() -> None:
    student, teacher = (x[:, :1] for x in random_maps())
    with pytest.raises(ValueError, match='standardise needs two channels or more, got 1'):
        KLLoss(standardise=True, resolution='student')(student, teacher)


def test_cwd_is_cd_with_its_factor() -> None:
    loss: LogitLoss = KD_LOSSES.build(dict(type='CWD', tau=4.0, ignore_index=255))
    student, teacher = random_maps()
    label = random_label((7, 9))
    expected = CDLoss(tau=4.0, tau_squared=True, ignore_index=255)(student, teacher, label)
    assert torch.equal(loss(student, teacher, label), expected)


@pytest.mark.parametrize('case', cases('peers.json', 'channel-wise KL x tau^2'))
def test_cwd_as_published(case: dict[str, Any]) -> None:
    loss = CWD(case['tau'], resolution='student')
    check(case, lambda x: loss(x['student'], x['teacher']), arrays('peers.npz'))
