from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from mmseg_kd.config.term_spec import TermSpec, parse_terms
from mmseg_kd.errors import ConfigError, Problems
from mmseg_kd.registry import SCHEDULES
from mmseg_kd.schedules import (
    ExponentialDecay,
    ExponentialWarmup,
    Jump,
    LegacyExponentialDecay,
    LegacyExponentialWarmup,
    LinearDecay,
    LinearWarmup,
    RandomTurn,
)

# SegDistill's factors times its alpha of 3: warm-up over 2000 iterations, decay from 110000 to
# 120000, or a jump at the end of the one and at the start of the other.
WARMUP = [(0, 0.0), (1, 0.0015), (500, 0.75), (1000, 1.5), (1999, 2.9985), (2000, 3.0), (3000, 3.0)]
DECAY = [
    (0, 3.0),
    (109999, 3.0),
    (110001, 2.9997),
    (112500, 2.25),
    (115000, 1.5),
    (119999, 0.0003),
    (120000, 0.0),
    (150000, 0.0),
]
JUMP_ON = [(0, 0.0), (1, 0.0), (500, 0.0), (1000, 0.0), (1999, 0.0), (2000, 3.0), (3000, 3.0)]
JUMP_OFF = [
    (0, 3.0),
    (109999, 3.0),
    (110001, 0.0),
    (112500, 0.0),
    (115000, 0.0),
    (119999, 0.0),
    (120000, 0.0),
    (150000, 0.0),
]
LEGACY_WARMUP = [
    (0, 1.0),
    (1, 1.0005494570405824),
    (500, 1.3160740129524924),
    (1000, 1.7320508075688772),
    (1999, 2.998352534089997),
    (2000, 3.0),
    (3000, 3.0),
]
LEGACY_DECAY = [
    (0, 3.0),
    (109999, 3.0),
    (110001, 0.002999670434416971),
    (112500, 0.0022795070569547778),
    (115000, 0.0017320508075688772),
    (119999, 0.0010001098672638327),
    (120000, 0.0),
    (150000, 0.0),
]


@pytest.mark.parametrize(
    ('schedule', 'points'),
    [
        (LinearWarmup(2000), WARMUP),
        (LinearDecay(110000, 120000), DECAY),
        (Jump(begin=2000), JUMP_ON),
        (Jump(end=110000), JUMP_OFF),
        (LegacyExponentialWarmup(3, 2000), LEGACY_WARMUP),
        (LegacyExponentialDecay(3, 110000, 120000), LEGACY_DECAY),
    ],
)
def test_published_points(
    schedule: Callable[[int], float], points: list[tuple[int, float]]
) -> None:
    for iteration, expected in points:
        assert 3 * schedule(iteration) == pytest.approx(expected, rel=1e-12, abs=0.0)


@pytest.mark.parametrize(
    ('schedule', 'points'),
    [
        (LinearWarmup(10), {0: 0.0, 1: 0.1, 9: 0.9, 10: 1.0, 11: 1.0}),
        (LinearWarmup(30, begin=20), {0: 0.0, 20: 0.0, 21: 0.1, 29: 0.9, 30: 1.0, 31: 1.0}),
        (LinearDecay(20, 30), {0: 1.0, 20: 1.0, 21: 0.9, 29: 0.1, 30: 0.0, 31: 0.0}),
        (LinearDecay(0, 1), {0: 1.0, 1: 0.0}),
        (Jump(5, 8), {4: 0.0, 5: 1.0, 7: 1.0, 8: 0.0}),
        (Jump(), {0: 1.0, 10**9: 1.0}),
        (Jump(end=1), {0: 1.0, 1: 0.0}),
        (ExponentialWarmup(6, 2, floor=1e-4), {1: 0.0, 2: 1e-4, 3: 1e-3, 5: 0.1, 6: 1.0, 9: 1.0}),
        (ExponentialDecay(2, 6, floor=1e-4), {0: 1.0, 2: 1.0, 3: 0.1, 5: 1e-3, 6: 0.0, 9: 0.0}),
        (ExponentialWarmup(2), {0: 1e-3, 1: 1e-3**0.5, 2: 1.0}),
    ],
)
def test_ends(schedule: Callable[[int], float], points: dict[int, float]) -> None:
    for iteration, expected in points.items():
        assert schedule(iteration) == pytest.approx(expected, abs=0.0)


@pytest.mark.parametrize(
    'schedule',
    [
        LinearWarmup(7, 3),
        LinearDecay(3, 7),
        Jump(3, 7),
        ExponentialWarmup(7, 3),
        ExponentialDecay(3, 7),
        RandomTurn(1, 2),
    ],
)
def test_between_0_and_1_and_without_state(schedule: Callable[[int], float]) -> None:
    forwards = [schedule(i) for i in range(12)]
    backwards = [schedule(i) for i in reversed(range(12))]
    assert backwards == forwards[::-1]
    assert min(forwards) == 0.0
    assert max(forwards) == 1.0
    assert all(isinstance(factor, float) for factor in forwards)


RAMPS = [LinearWarmup, LinearDecay, Jump, ExponentialWarmup, ExponentialDecay]


@pytest.mark.parametrize('kind', RAMPS)
@pytest.mark.parametrize(('begin', 'end'), [(5, 5), (6, 5), (-1, 5)])
def test_wrong_interval(kind: Any, begin: int, end: int) -> None:
    with pytest.raises(ValueError, match=f'begin={begin}, end={end}'):
        kind(begin=begin, end=end)


@pytest.mark.parametrize('floor', [0, 1, -0.5])
@pytest.mark.parametrize('kind', [ExponentialWarmup, ExponentialDecay])
def test_wrong_floor(kind: Any, floor: float) -> None:
    with pytest.raises(ValueError, match=f'0 < floor < 1, got {floor}'):
        kind(begin=0, end=5, floor=floor)


@pytest.mark.parametrize('alpha', [0, -1, float('inf')])
def test_wrong_alpha(alpha: float) -> None:
    with pytest.raises(ValueError, match=f'alpha > 0, got {alpha}'):
        LegacyExponentialWarmup(alpha, 5)
    with pytest.raises(ValueError, match=f'alpha > 0, got {alpha}'):
        LegacyExponentialDecay(alpha, 0, 5)


def test_one_takes_its_turn_in_each_iteration() -> None:
    turns = [RandomTurn(index, 3) for index in range(3)]
    drawn = [[turn(i) for turn in turns].index(1.0) for i in range(3000)]
    assert all(sum(turn(i) for turn in turns) == 1.0 for i in range(100))
    # 1000 each on average, with a deviation of 26.
    assert all(850 < drawn.count(index) < 1150 for index in range(3))
    # A turn says nothing about the next.
    assert 850 < sum(a == b for a, b in pairwise(drawn)) < 1150


def test_turns_of_another_seed_are_others() -> None:
    first, second = ([RandomTurn(0, 2, seed)(i) for i in range(64)] for seed in (0, 1))
    assert first != second
    assert first == [RandomTurn(0, 2)(i) for i in range(64)]


@pytest.mark.parametrize(('index', 'count'), [(2, 2), (-1, 2), (0, 0)])
def test_wrong_turn(index: int, count: int) -> None:
    with pytest.raises(ValueError, match=f'index={index}, count={count}'):
        RandomTurn(index, count)
    with pytest.raises(ValueError, match='seed >= 0, got -1'):
        RandomTurn(0, 1, seed=-1)


@pytest.mark.parametrize(
    'kind', [*RAMPS, LegacyExponentialDecay, LegacyExponentialWarmup, RandomTurn]
)
def test_registered(kind: Any) -> None:
    assert SCHEDULES.get(kind.__name__) is kind


def term(**changes: Any) -> TermSpec:
    cfg = dict(student_layer='a', teacher_layer='b', loss=dict(type='KLLoss')) | changes
    problems = Problems()
    specs = parse_terms([cfg], ['teacher'], problems).specs
    problems.raise_if_any()
    return specs[0]


def test_weight_of_a_term_is_the_product() -> None:
    both = term(
        weight=3.0,
        schedule=[
            dict(type='LinearWarmup', end=2000),
            dict(type='LinearDecay', begin=1000, end=3000),
        ],
    )
    expected = {0: 0.0, 500: 0.75, 1000: 1.5, 1500: 3 * 0.75 * 0.75, 2500: 0.75, 3000: 0.0}
    assert {i: both.weight_at(i) for i in expected} == pytest.approx(expected)


def test_one_schedule_needs_no_list() -> None:
    assert term(weight=2, schedule=dict(type='Jump', begin=5)).weight_at(5) == 2.0


@pytest.mark.parametrize('schedule', [None, [], ()])
def test_weight_without_a_schedule(schedule: Any) -> None:
    assert term(weight=0.5, schedule=schedule).weight_at(10**6) == 0.5
    assert term().weight_at(0) == 1.0


def test_wrong_schedules_of_a_term_are_reported_at_once() -> None:
    wrong = [dict(type='LinearWarmup', end=0), dict(type='LinearRise'), dict(type='LinearDecay')]
    with pytest.raises(ConfigError) as caught:
        term(schedule=wrong)
    for expected in (
        'distillation[0].schedule[0]: LinearWarmup: expected 0 <= begin < end',
        "distillation[0].schedule[1]: there is no schedule 'LinearRise'; nearest: Linear",
        'distillation[0].schedule[2]: LinearDecay: .*missing.*begin.*end',
    ):
        assert re.search(expected.replace('[', r'\['), str(caught.value))
