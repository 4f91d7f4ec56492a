"""Values and gradients of the losses' authors, see ../shared/vectors/README.md."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SHARED, needs_shared, value_and_gradient
from torch import Tensor, nn

from mmseg_kd.losses import ATLoss, CDLoss, CGDLoss, IFVDLoss, KLLoss
from mmseg_kd.schedules import LinearDecay, LinearWarmup

VECTORS = SHARED / 'vectors'

# Relative errors of the value and of the gradient's norm and entries.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


def cases(file: str, *names: str) -> list[Any]:
    """The cases of a file whose name is one of `names`; one to skip where it is absent."""
    path = VECTORS / file
    if not path.exists():
        return [pytest.param({}, marks=needs_shared(f'vectors/{file}'))]
    found = json.loads(path.read_text(encoding='utf-8'))['cases']
    return [case for case in found if case['name'] in names]


@cache
def inputs(file: str) -> dict[str, Tensor]:
    with np.load(VECTORS / file) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def check(
    loss: nn.Module,
    weight: float,
    student: Tensor,
    teacher: Tensor,
    label: Tensor,
    case: dict[str, Any],
) -> None:
    """Compare value and gradient of `weight` times `loss` with those of `case`."""
    expected_corner = case['grad_corner'] if 'grad_corner' in case else case['grad_first8']
    for dtype, tolerance in TOLERANCE.items():
        value, gradient = value_and_gradient(
            lambda s: weight * loss(s, teacher.to(s.dtype), label),
            student.to(dtype),
        )
        assert value.dtype == dtype
        assert value.item() == pytest.approx(case['loss'], rel=tolerance)
        assert gradient.norm().item() == pytest.approx(case['grad_norm'], rel=tolerance)
        # Float32 cannot be better on one small entry than on the gradient as a whole.
        floor = tolerance * case['grad_norm'] / 100 if dtype == torch.float32 else 0.0
        corner = gradient.flatten()[:8].tolist()
        assert corner == pytest.approx(expected_corner, rel=tolerance, abs=floor)


def check_segdistill(loss: nn.Module, case: dict[str, Any], weight: float = 1.0) -> None:
    arrays = inputs('segdistill.npz')
    check(loss, weight, arrays['student'], arrays['teacher'], arrays['gt'][:, 0], case)


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
    arrays = inputs('peers.npz')
    check(loss, 1.0, arrays['student'], arrays['teacher'], arrays['labels'], case)


@pytest.mark.parametrize('case', cases('peers.json', 'pixel KL x tau^2'))
@pytest.mark.parametrize('resolution', ['student', 'label'])
def test_pixel_kl_of_cirkd(case: dict[str, Any], resolution: Any) -> None:
    check_peer(KLLoss(tau=case['tau'], tau_squared=True, resolution=resolution), case)


@pytest.mark.parametrize('case', cases('peers.json', 'channel-wise KL x tau^2'))
@pytest.mark.parametrize('resolution', ['student', 'label'])
def test_channel_wise_kl_of_cirkd_and_mmrazor(case: dict[str, Any], resolution: Any) -> None:
    check_peer(CDLoss(tau=case['tau'], tau_squared=True, resolution=resolution), case)


@pytest.mark.parametrize(
    'case',
    cases('peers.json', 'intra-class feature variation (IFVD), labels at feature size'),
)
def test_ifvd_of_cirkd(case: dict[str, Any]) -> None:
    check_peer(IFVDLoss(variation_weight=1.0, kl_weight=0.0), case)
