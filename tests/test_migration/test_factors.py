"""Warm-up and early decay of old losses as schedules."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from conftest import SHARED, needs_shared
from old_sections import notes, problems, section

from mmseg_kd.migration.factors import convert_factors
from mmseg_kd.registry import SCHEDULES, build

ALPHA = 3.0


def old_weight(config: dict[str, Any], iterations: int) -> list[float]:
    """The weight in every iteration, by the rules of the old code: it keeps what it was.

    Its counter is 1 in the first.
    """
    weight = ALPHA
    weights = []
    for n in range(1, iterations + 1):
        if 'warmup_config' in config:
            mode, end = config['warmup_config']['mode'], config['warmup_config']['warmup_iters']
            if n < end:
                weight = {
                    'linear': ALPHA * n / end,
                    'exp': ALPHA ** (n / end),
                    'jump': 0.0,
                }[mode]
            elif n == end:
                weight = ALPHA
        if 'earlydecay_config' in config:
            decay = config['earlydecay_config']
            begin, end = decay['earlydecay_start'], decay['earlydecay_end']
            left = (end - n) / (end - begin) if end != begin else 0.0
            if begin < n < end:
                weight = {
                    'linear': ALPHA * left,
                    'exp': 0.001 * ALPHA**left,
                    'jump': 0.0,
                }[decay['mode']]
            elif n >= end and n >= begin:
                weight = 0.0
        weights.append(weight)
    return weights


def converted(config: dict[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    one = section(config, 'loss_config')
    return convert_factors(one, ALPHA), problems(one)


def weight_at(schedules: list[dict[str, Any]], iteration: int) -> float:
    built = [build(SCHEDULES, one, 'test') for one in schedules]
    return ALPHA * math.prod(schedule(iteration) for schedule in built)


def config(warmup: str | None, decay: str | None) -> dict[str, Any]:
    made: dict[str, Any] = {}
    if warmup:
        made['warmup_config'] = dict(mode=warmup, warmup_iters=10)
    if decay:
        made['earlydecay_config'] = dict(mode=decay, earlydecay_start=30, earlydecay_end=40)
    return made


@pytest.mark.parametrize('warmup', [None, 'linear', 'exp', 'jump'])
@pytest.mark.parametrize('decay', [None, 'linear', 'exp', 'jump'])
def test_weights_are_as_they_were(warmup: str | None, decay: str | None) -> None:
    old = config(warmup, decay)
    schedules, listed = converted(old)
    assert listed == []
    assert len(schedules) == bool(warmup) + bool(decay)
    assert [weight_at(schedules, n) for n in range(60)] == pytest.approx(old_weight(old, 60))


def counted(*schedules: dict[str, Any]) -> list[dict[str, Any]]:
    return [dict(type='CountedFromOne', schedule=one) for one in schedules]


def test_written_schedules() -> None:
    assert converted(config('linear', 'linear'))[0] == counted(
        dict(type='LinearWarmup', end=10),
        dict(type='LinearDecay', begin=30, end=40),
    )
    assert converted(config('jump', 'jump'))[0] == counted(
        dict(type='Jump', begin=10),
        dict(type='Jump', end=31),
    )
    assert converted(config('exp', 'exp'))[0] == counted(
        dict(type='LegacyExponentialWarmup', alpha=3.0, end=10),
        dict(type='LegacyExponentialDecay', alpha=3.0, begin=30, end=40),
    )


def test_the_first_iteration_is_the_first() -> None:
    (warmup,), _ = converted(dict(warmup_config=dict(mode='linear', warmup_iters=2000)))
    factors = [weight_at([warmup], n) / ALPHA for n in (0, 998, 1998, 1999)]
    assert factors == pytest.approx([1 / 2000, 999 / 2000, 1999 / 2000, 1.0], rel=1e-12)
    (jump,), _ = converted(dict(warmup_config=dict(mode='jump', warmup_iters=5)))
    assert [weight_at([jump], n) for n in (3, 4)] == [0.0, ALPHA]


def test_numbers_of_the_older_spelling() -> None:
    schedules, listed = converted(dict(warmup_config=2000, earlystop_config=140000))
    assert listed == []
    weights = {n: weight_at(schedules, n - 1) for n in (1, 500, 2000, 140000, 145000, 149999)}
    assert weights == pytest.approx(
        {1: ALPHA / 2000, 500: ALPHA / 4, 2000: ALPHA, 140000: ALPHA, 145000: ALPHA / 2}
        | {149999: ALPHA / 10000}
    )
    assert weight_at(schedules, 149999) == 0.0
    one = section(dict(earlystop_config=96000), 'loss_config')
    convert_factors(one, ALPHA)
    (note,) = notes(one)
    assert 'down to 0 in 10000 iterations' in note
    assert "schedule=dict(type='Jump', end=96001)" in note
    one = section(dict(warmup_config=1000), 'loss_config')
    convert_factors(one, ALPHA)
    (note,) = notes(one)
    assert 'before, the term was off until then' in note
    assert "schedule=dict(type='Jump', begin=1000)" in note


def test_a_decay_over_the_whole_training() -> None:
    """Down to a hundredth in iteration 160000 of the old counter, and on from there."""
    old = dict(edt_config=True, warmup_config=2000, earlystop_config=140000)
    one = section(old, 'loss_config')
    schedules = convert_factors(one, ALPHA)
    one.close()
    for counter in (1, 1000, 80000, 150000, 160000, 200000):
        expected = ALPHA * 0.01 ** (counter / 160000)
        assert weight_at(schedules, counter - 1) == pytest.approx(expected, rel=1e-12)
    assert problems(one) == []
    assert notes(one) == [
        'loss_config.earlystop_config: dropped: edt_config made it void',
        'loss_config.warmup_config: dropped: edt_config made it void',
    ]


@pytest.mark.parametrize('nothing', [0, False, None])
def test_no_numbers_of_the_older_spelling(nothing: Any) -> None:
    assert converted(dict(warmup_config=nothing, earlystop_config=nothing)) == ([], [])


@pytest.mark.parametrize('mode', ['linear', 'exp', 'jump'])
@pytest.mark.parametrize(('begin', 'end'), [(30, 30), (30, 20)])
def test_a_decay_without_length(mode: str, begin: int, end: int) -> None:
    decay = dict(mode=mode, earlydecay_start=begin, earlydecay_end=end)
    schedules, listed = converted(dict(earlydecay_config=decay))
    assert listed == []
    expected = old_weight(dict(earlydecay_config=decay), 60)
    assert [weight_at(schedules, n) for n in range(60)] == expected


def test_nothing_to_do() -> None:
    for empty in (None, False, {}):
        assert converted(dict(warmup_config=empty, earlydecay_config=empty)) == ([], [])
    assert converted(dict(warmup_config=dict(mode='linear', warmup_iters=0))) == ([], [])


def test_what_is_listed() -> None:
    schedules, listed = converted(dict(warmup_config=dict(mode='cosine', warmup_iters=5, x=1)))
    assert schedules == []
    assert listed == [
        "loss_config.warmup_config.mode: expected one of ('linear', 'exp', 'jump'), got 'cosine'",
        'loss_config.warmup_config.x: unknown key, left out',
    ]
    overlapping = dict(
        warmup_config=dict(mode='linear', warmup_iters=50),
        earlydecay_config=dict(mode='linear', earlydecay_start=30, earlydecay_end=40),
    )
    schedules, listed = converted(overlapping)
    assert len(schedules) == 2
    assert 'begins before the warm-up ends' in listed[0]
    zero = dict(mode='jump', earlydecay_start=0, earlydecay_end=0)
    schedules, listed = converted(dict(earlydecay_config=zero))
    assert schedules == []
    assert 'leaves no iteration' in listed[0]


@needs_shared('vectors/segdistill.json')
def test_published_factors() -> None:
    cases = json.loads((SHARED / 'vectors/segdistill.json').read_text())['schedules']
    assert len(cases) == 6
    for case in cases:
        assert case['alpha'] == ALPHA
        if case['kind'] == 'warmup':
            old = dict(warmup_config=dict(mode=case['mode'], warmup_iters=case['warmup_iters']))
        else:
            times = dict(earlydecay_start=case['start'], earlydecay_end=case['end'])
            old = dict(earlydecay_config=dict(mode=case['mode'], **times))
        schedules, _ = converted(old)
        # Its counter is never 0.
        for counter, weight in case['points'][1:]:
            assert weight_at(schedules, counter - 1) == pytest.approx(weight, rel=1e-12), case
