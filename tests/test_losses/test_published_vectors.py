"""Values and gradients of SegDistill and of its peers on the losses between scores."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import needs_shared, random_maps
from torch import Tensor, nn
from vectors import arrays, cases, check

from mmseg_kd.losses import ATLoss, CDLoss, CGDLoss, IFVDLoss, KLLoss
from mmseg_kd.schedules import LinearDecay, LinearWarmup


def check_loss(
    loss: nn.Module, weight: float, student: Tensor, teacher: Tensor, label: Tensor, case: Any
) -> None:
    check(
        case,
        lambda x: weight * loss(x['student'], x['teacher'], label),
        dict(student=student, teacher=teacher),
    )


def check_segdistill(loss: nn.Module, case: dict[str, Any], weight: float = 1.0) -> None:
    x = arrays('segdistill.npz')
    check_loss(loss, weight, x['student'], x['teacher'], x['gt'][:, 0], case)


@needs_shared('vectors/segdistill.json')
def test_all_cases_of_these_losses_are_here() -> None:
    names = ('PDLoss', 'CDLoss', 'CGDLoss', 'CGDLossWS', 'KLDLoss', 'ATLoss', 'IFVDLoss')
    counts = [len(cases('segdistill.json', name)) for name in names]
    assert counts == [1, 1, 4, 5, 4, 1, 1]


@pytest.mark.parametrize('case', cases('segdistill.json', 'PDLoss'))
def test_pd_loss(case: dict[str, Any]) -> None:
    check_segdistill(KLLoss(), case)


@pytest.mark.parametrize('case', cases('segdistill.json', 'CDLoss'))
def test_cd_loss(case: dict[str, Any]) -> None:
    check_segdistill(CDLoss(), case)


@pytest.mark.parametrize('case', cases('segdistill.json', 'CGDLoss'))
def test_cgd_loss(case: dict[str, Any]) -> None:
    check_segdistill(CGDLoss(case['group_size'], tau=case['tau']), case, weight=case['alpha'])


@pytest.mark.parametrize('case', cases('segdistill.json', 'CGDLossWS'))
def test_cgd_loss_with_warm_up_and_early_stop(case: dict[str, Any]) -> None:
    n = case['n_iter']
    weight = 3 * LinearWarmup(2000)(n) * LinearDecay(110000, 120000)(n)
    check_segdistill(CGDLoss(10, tau=2.0), case, weight=weight)


@pytest.mark.parametrize('case', cases('segdistill.json', 'KLDLoss'))
def test_kld_loss_at_the_native_size(case: dict[str, Any]) -> None:
    assert case['resize'] is None
    options: dict[str, Any] = dict(tau=case['tau'], resolution='student')
    loss: nn.Module = KLLoss(**options)
    if case['transform'] == 'channel':
        loss = CGDLoss(case['group_size'], **options)
    check_segdistill(loss, case, weight=case['alpha'])


@pytest.mark.parametrize('case', cases('segdistill.json', 'ATLoss'))
def test_at_loss(case: dict[str, Any]) -> None:
    check_segdistill(ATLoss(), case)


@pytest.mark.parametrize('case', cases('segdistill.json', 'IFVDLoss'))
def test_ifvd_loss(case: dict[str, Any]) -> None:
    check_segdistill(IFVDLoss(), case)


def check_peer(loss: nn.Module, case: dict[str, Any]) -> None:
    x = arrays('peers.npz')
    check_loss(loss, 1.0, x['student'], x['teacher'], x['labels'], case)


@pytest.mark.parametrize('case', cases('peers.json', 'pixel KL x tau^2'))
@pytest.mark.parametrize('resolution', ['student', 'label'])
def test_pixel_kl_of_cirkd(case: dict[str, Any], resolution: Any) -> None:
    check_peer(KLLoss(tau=case['tau'], tau_squared=True, resolution=resolution), case)


@pytest.mark.parametrize('case', cases('peers.json', 'channel-wise KL x tau^2'))
@pytest.mark.parametrize('resolution', ['student', 'label'])
def test_channel_wise_kl_of_cirkd_and_mmrazor(case: dict[str, Any], resolution: Any) -> None:
    check_peer(CDLoss(tau=case['tau'], tau_squared=True, resolution=resolution), case)


@pytest.mark.parametrize('reduction', ['batchmean', 'mean', 'sum'])
@pytest.mark.filterwarnings('ignore:reduction')
def test_reductions_of_mmrazors_kl(reduction: str) -> None:
    student, teacher = (x.double() for x in random_maps())
    tau = 4.0
    expected = tau**2 * F.kl_div(
        (student / tau).log_softmax(1), (teacher / tau).softmax(1), reduction=reduction
    )
    loss = KLLoss(tau, tau_squared=True, resolution='student')(student, teacher)
    n, c, h, w = student.shape
    factor = dict(batchmean=h * w, mean=1 / c, sum=n * h * w)[reduction]
    torch.testing.assert_close(factor * loss, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    'case',
    cases('peers.json', 'intra-class feature variation (IFVD), labels at feature size'),
)
def test_ifvd_of_cirkd(case: dict[str, Any]) -> None:
    check_peer(IFVDLoss(variation_weight=1.0, kl_weight=0.0), case)
