from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from mmseg_kd.errors import ConfigError, Problems
from mmseg_kd.registry import SCHEDULES
from mmseg_kd.schedules import Jump, LinearDecay, LinearWarmup
from mmseg_kd.term import Term, parse_terms

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


@pytest.mark.parametrize(
    ('schedule', 'points'),
    [
        (LinearWarmup(2000), WARMUP),
        (LinearDecay(110000, 120000), DECAY),
        (Jump(begin=2000), JUMP_ON),
        (Jump(end=110000), JUMP_OFF),
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
    ],
)
def test_ends(schedule: Callable[[int], float], points: dict[int, float]) -> None:
    for iteration, expected in points.items():
        assert schedule(iteration) == pytest.approx(expected, abs=0.0)


@pytest.mark.parametrize('schedule', [LinearWarmup(7, 3), LinearDecay(3, 7), Jump(3, 7)])
def test_between_0_and_1_and_without_state(schedule: Callable[[int], float]) -> None:
    forwards = [schedule(i) for i in range(12)]
    backwards = [schedule(i) for i in reversed(range(12))]
    assert backwards == forwards[::-1]
    assert min(forwards) == 0.0
    assert max(forwards) == 1.0
    assert all(isinstance(factor, float) for factor in forwards)


@pytest.mark.parametrize('kind', [LinearWarmup, LinearDecay, Jump])
@pytest.mark.parametrize(('begin', 'end'), [(5, 5), (6, 5), (-1, 5)])
def test_wrong_interval(kind: Any, begin: int, end: int) -> None:
    with pytest.raises(ValueError, match=f'begin={begin}, end={end}'):
        kind(begin=begin, end=end)


@pytest.mark.parametrize('kind', [LinearWarmup, LinearDecay, Jump])
def test_registered(kind: Any) -> None:
    assert SCHEDULES.get(kind.__name__) is kind


def term(**changes: Any) -> Term:
    cfg = dict(student_layer='a', teacher_layer='b', loss=dict(type='KLLoss')) | changes
    problems = Problems()
    specs = parse_terms([cfg], problems)
    problems.raise_if_any()
    return Term(specs[0], connector=None)


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
