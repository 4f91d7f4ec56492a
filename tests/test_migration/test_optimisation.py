"""Old optimisers and learning rates, built by mmengine."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import OPTIM_WRAPPERS, PARAM_SCHEDULERS
from mmseg.registry import MODELS
from old_sections import notes, problems, section
from torch import nn

from mmseg_kd.migration.layers import MIT, SEGFORMER_HEAD
from mmseg_kd.migration.networks import Network
from mmseg_kd.migration.optimisation import convert_optimiser, convert_schedulers
from mmseg_kd.migration.registered import defaults

PLAIN = Network({}, None, ())
NVIDIA = Network({}, None, (MIT, SEGFORMER_HEAD))
ADAMW = dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01)
CUSTOM_KEYS = {
    'pos_block': dict(decay_mult=0.0),
    'norm': dict(decay_mult=0.0),
    'head': dict(lr_mult=10.0),
}


def optimiser(student: Network = PLAIN, **old: Any) -> tuple[dict[str, Any], list[str]]:
    one = section(old)
    made = convert_optimiser(one, student)
    one.close()
    return made, problems(one)


def test_plain_steps() -> None:
    made, listed = optimiser(optimizer=ADAMW, optimizer_config=dict(grad_clip=None))
    assert listed == []
    assert made == dict(type='OptimWrapper', optimizer=ADAMW)
    built = build_optim_wrapper(nn.Linear(2, 3), made)
    assert isinstance(built.optimizer, torch.optim.AdamW)
    assert built.optimizer.defaults['betas'] == (0.9, 0.999)


@pytest.mark.parametrize(
    ('old', 'new'),
    [
        (dict(optimizer_config=dict(type='OptimizerHook')), dict()),
        (
            dict(optimizer_config=dict(grad_clip=dict(max_norm=1, norm_type=2))),
            dict(clip_grad=dict(max_norm=1, norm_type=2)),
        ),
        (
            dict(optimizer_config=dict(type='GradientCumulativeOptimizerHook', cumulative_iters=4)),
            dict(accumulative_counts=4),
        ),
        (
            dict(fp16=dict(loss_scale=512.0)),
            dict(type='AmpOptimWrapper', loss_scale=512.0),
        ),
        (dict(fp16=dict()), dict(type='AmpOptimWrapper', loss_scale=512.0)),
        (
            dict(optimizer_config=dict(type='Fp16OptimizerHook', loss_scale='dynamic')),
            dict(type='AmpOptimWrapper', loss_scale='dynamic'),
        ),
        (
            dict(fp16=dict(loss_scale=64), optimizer_config=dict(grad_clip=dict(max_norm=2))),
            dict(type='AmpOptimWrapper', loss_scale=64.0, clip_grad=dict(max_norm=2)),
        ),
    ],
)
def test_precision_clipping_and_accumulation(old: dict[str, Any], new: dict[str, Any]) -> None:
    made, listed = optimiser(optimizer=ADAMW, **old)
    assert listed == []
    assert made == {**dict(type='OptimWrapper', optimizer=ADAMW), **new}
    # mmengine refuses a whole number here.
    assert not isinstance(made.get('loss_scale'), int)
    assert made.keys() <= {'type', *defaults(OPTIM_WRAPPERS.get(made['type']))}
    # Mixed precision wants CUDA; its other arguments are built without.
    plain = {key: value for key, value in made.items() if key != 'loss_scale'}
    build_optim_wrapper(nn.Linear(2, 3), {**plain, 'type': 'OptimWrapper'})


def test_what_is_listed() -> None:
    made, listed = optimiser(
        optimizer=dict(**ADAMW, constructor='LayerDecayOptimizerConstructor'),
        optimizer_config=dict(type='DistOptimizerHook', update_interval=2),
    )
    assert made == dict(type='OptimWrapper', optimizer=ADAMW)
    assert listed == [
        'optimizer.constructor: LayerDecayOptimizerConstructor is of the old world, left out',
        'optimizer_config.type: DistOptimizerHook is not known; a plain step is taken',
        'optimizer_config.update_interval: unknown key, left out',
    ]
    _, listed = optimiser(optimizer=dict(type='AdamWW', lr=1))
    assert listed[0].startswith("optimizer.type: there is no optimiser 'AdamWW' in mmseg 1.x")
    _, listed = optimiser(optimizer=dict(type='SGD', lr=1, nestrov=True))
    assert listed == ['optimizer.nestrov: SGD of mmseg 1.x has no such argument, left out']
    assert optimiser()[1] == ['optimizer: expected an optimizer, got none']


def multipliers(made: dict[str, Any], network: Any) -> dict[str, tuple[float, float]]:
    """Learning rate and decay of every parameter, over the optimiser's own."""
    built = build_optim_wrapper(network, made)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    base = made['optimizer']
    return {
        names[id(group['params'][0])]: (
            group['lr'] / base['lr'],
            group['weight_decay'] / base['weight_decay'],
        )
        for group in built.optimizer.param_groups
    }


class Student(nn.Module):
    """A mix transformer and a head where the wrapper has them."""

    def __init__(self) -> None:
        super().__init__()
        self.student = nn.Module()
        self.student.backbone = MODELS.build(
            dict(
                type='MixVisionTransformer',
                embed_dims=8,
                num_layers=[1, 1, 1, 1],
                num_heads=[1, 2, 4, 8],
            )
        )
        self.student.decode_head = nn.Linear(2, 3)


def test_no_decay_of_the_norms_between_stages() -> None:
    """Their name had `norm` in it, and has a number in its place now."""
    old = dict(**ADAMW, paramwise_cfg=dict(custom_keys=CUSTOM_KEYS))
    made, listed = optimiser(NVIDIA, optimizer=old)
    assert listed == []
    found = multipliers(made, Student())
    for name, (rate, decay) in found.items():
        is_norm = 'norm' in name or any(f'layers.{s}.2.' in name for s in range(4))
        assert decay == (0.0 if is_norm else 1.0), name
        assert rate == pytest.approx(10.0 if 'head' in name else 1.0), name
    assert found['student.backbone.layers.3.2.bias'] == (1.0, 0.0)
    plain, _ = optimiser(PLAIN, optimizer=old)
    assert plain['paramwise_cfg'] == dict(custom_keys=CUSTOM_KEYS)


def test_a_longer_key_than_norm_counts_as_it_did() -> None:
    keys = {**CUSTOM_KEYS, 'backbone': dict(lr_mult=0.1)}
    made, _ = optimiser(NVIDIA, optimizer=dict(**ADAMW, paramwise_cfg=dict(custom_keys=keys)))
    assert made['paramwise_cfg']['custom_keys'] == keys


def test_keys_that_may_not_match_any_more_are_listed() -> None:
    keys = {'block1': dict(lr_mult=0.1)}
    paramwise = dict(custom_keys=keys, norm_decay_mult=0.0)
    made, listed = optimiser(NVIDIA, optimizer=dict(**ADAMW, paramwise_cfg=paramwise))
    assert made['paramwise_cfg'] == paramwise
    assert listed == [
        'optimizer.paramwise_cfg.custom_keys.block1: kept as it is; see whether it is still part '
        'of the names of the parameters'
    ]


# Learning rates


LR = 0.01


def schedulers(max_iters: int | None = 200, **old: Any) -> tuple[list[dict[str, Any]], Any]:
    one = section(dict(lr_config=old) if old else {})
    made = convert_schedulers(one, max_iters)
    one.close()
    return made, one


def rates(made: list[dict[str, Any]], iterations: int = 200) -> list[float]:
    """The learning rate in every iteration, with mmengine's schedulers."""
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=LR)
    built = [PARAM_SCHEDULERS.build(dict(**one, optimizer=optimizer)) for one in made]
    found = []
    for _ in range(iterations):
        found.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in built:
            scheduler.step()
    return found


def old_warmup(n: int, iters: int, ratio: float) -> float:
    return 1 - (1 - min(n / iters, 1)) * (1 - ratio)


POLY = dict(policy='poly', power=0.9, min_lr=1e-4, by_epoch=False)
WARMUP = dict(warmup='linear', warmup_iters=20, warmup_ratio=1e-6)


def test_poly() -> None:
    made, one = schedulers(**POLY)
    assert (problems(one), notes(one)) == ([], [])
    assert made == [dict(type='PolyLR', eta_min=1e-4, power=0.9, by_epoch=False, begin=0, end=201)]
    expected = [(LR - 1e-4) * (1 - n / 200) ** 0.9 + 1e-4 for n in range(200)]
    assert rates(made) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize('power', [1.0, 0.9])
def test_poly_beneath_a_warmup(power: float) -> None:
    made, one = schedulers(**{**POLY, 'power': power, 'min_lr': 0.0}, **WARMUP)
    assert made == [
        dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=21),
        dict(type='PolyLR', eta_min=0.0, power=power, by_epoch=False, begin=0, end=201),
    ]
    assert (problems(one), notes(one)) == ([], [])
    expected = [LR * (1 - n / 200) ** power * old_warmup(n, 20, 1e-6) for n in range(200)]
    assert rates(made) == pytest.approx(expected, rel=1e-9)


def test_a_least_rate_beneath_a_warmup_is_told() -> None:
    made, one = schedulers(**POLY, **WARMUP)
    (note,) = notes(one)
    assert note.startswith('lr_config.warmup: not exact where there is a least rate too')
    expected = [
        ((LR - 1e-4) * (1 - n / 200) ** 0.9 + 1e-4) * old_warmup(n, 20, 1e-6) for n in range(200)
    ]
    found = rates(made)
    assert found == pytest.approx(expected, abs=0.01 * LR)
    assert min(new - old for new, old in zip(found, expected, strict=True)) > -1e-9


@pytest.mark.parametrize(
    ('floor', 'written', 'least'),
    [
        (dict(min_lr=0.001), dict(eta_min=0.001), 0.001),
        (dict(min_lr_ratio=0.2), dict(eta_min_ratio=0.2), 0.002),
        (dict(), dict(eta_min=0.0), 0.0),
    ],
)
def test_cosine(floor: dict[str, Any], written: dict[str, Any], least: float) -> None:
    made, one = schedulers(policy='CosineAnnealing', by_epoch=False, **floor, **WARMUP)
    assert problems(one) == []
    span = dict(by_epoch=False, begin=0, end=201)
    assert made[1] == dict(type='CosineAnnealingLR', T_max=200, **written, **span)
    expected = [
        (least + (LR - least) * (1 + math.cos(math.pi * n / 200)) / 2) * old_warmup(n, 20, 1e-6)
        for n in range(200)
    ]
    found = rates(made)
    # A least rate and a warm-up together are told of.
    assert found == pytest.approx(expected, **(dict(abs=0.01 * LR) if least else dict(rel=1e-9)))
    assert len(notes(one)) == bool(least)


@pytest.mark.parametrize(
    ('step', 'kind'),
    [
        ([50, 120], dict(type='MultiStepLR', milestones=[50, 120])),
        (70, dict(type='StepLR', step_size=70)),
    ],
)
def test_step(step: Any, kind: dict[str, Any]) -> None:
    made, one = schedulers(policy='step', step=step, gamma=0.5, by_epoch=False, **WARMUP)
    assert problems(one) == []
    assert made[1] == dict(**kind, gamma=0.5, by_epoch=False)
    found = rates(made)
    at = [50, 120] if isinstance(step, list) else [70, 140]
    expected = [
        LR * 0.5 ** sum(n >= one for one in at) * old_warmup(n, 20, 1e-6) for n in range(200)
    ]
    assert found == pytest.approx(expected, rel=1e-9)


def test_fixed() -> None:
    made, one = schedulers(policy='fixed', warmup='constant', warmup_iters=5, warmup_ratio=0.5)
    assert problems(one) == []
    assert made == [dict(type='ConstantLR', factor=0.5, by_epoch=False, begin=0, end=6)]
    assert rates(made) == pytest.approx([LR / 2] * 5 + [LR] * 195)
    assert schedulers(policy='fixed')[0] == []
    made, one = schedulers()
    assert made == []
    assert len(notes(one)) == 1


@pytest.mark.parametrize(
    ('old', 'listed'),
    [
        (
            dict(policy='cyclic', by_epoch=False, target_ratio=3),
            "policy: there is no policy 'cycli",
        ),
        (dict(policy='poly'), 'by_epoch: counted epochs'),
        (dict(**POLY, warmup='exp', warmup_iters=3), "warmup: there is no warm-up 'exp' here"),
        (dict(**POLY, **WARMUP, warmup_by_epoch=True), 'warmup_by_epoch: a warm-up over epochs'),
        (dict(policy='step', step=3, by_epoch=False, min_lr=1), 'min_lr: a least learning rate'),
        (dict(**POLY, powr=2), 'powr: unknown key'),
    ],
)
def test_rates_that_are_listed(old: dict[str, Any], listed: str) -> None:
    made, one = schedulers(**old)
    (line,) = problems(one)
    assert line.startswith(f'lr_config.{listed}')
    rates(made, 3)


def test_without_an_end() -> None:
    assert schedulers(None, **POLY)[0] == []


def test_momentum() -> None:
    one = section(dict(lr_config=dict(policy='fixed'), momentum_config=dict(policy='cyclic')))
    convert_schedulers(one, 5)
    assert problems(one) == ['momentum_config: a schedule of the momentum is not converted']
