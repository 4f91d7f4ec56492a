"""Schedules of any interval, at any iteration."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

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

Interval = tuple[int, int]

INTERVALS = st.tuples(st.integers(0, 10**9), st.integers(1, 10**9)).map(lambda x: (x[0], sum(x)))
FLOORS = st.floats(0, 1, exclude_min=True, exclude_max=True)


def iterations(interval: Interval, inside: list[float]) -> list[int]:
    """Iterations before, at, in and after an interval, in their order."""
    begin, end = interval
    points = {0, begin - 1, begin, begin + 1, end - 1, end, end + 1, 10**12}
    points |= {begin + int(part * (end - begin)) for part in inside}
    return sorted(point for point in points if point >= 0)


@given(
    kind=st.sampled_from([LinearWarmup, LinearDecay, Jump, ExponentialWarmup, ExponentialDecay]),
    interval=INTERVALS,
    floor=FLOORS,
    inside=st.lists(st.floats(0, 1), max_size=5),
)
def test_from_0_to_1_without_a_turn_and_level_outside(
    kind: Any, interval: Interval, floor: float, inside: list[float]
) -> None:
    begin, end = interval
    options = dict(floor=floor) if kind in (ExponentialWarmup, ExponentialDecay) else {}
    schedule: Callable[[int], float] = kind(begin=begin, end=end, **options)
    points = iterations(interval, inside)
    factors = [schedule(i) for i in points]
    assert all(isinstance(f, float) and 0.0 <= f <= 1.0 for f in factors)
    assert {schedule(i) for i in points if i < begin} <= {schedule(0)}
    assert {schedule(i) for i in points if i >= end} == {schedule(end)}
    rises = kind in (LinearWarmup, ExponentialWarmup)
    if kind is Jump:
        assert factors == [float(begin <= i < end) for i in points]
    else:
        assert all(a <= b if rises else a >= b for a, b in pairwise(factors))
        assert (schedule(end), factors[-1]) == ((1.0, 1.0) if rises else (0.0, 0.0))


@example(interval=(0, 1), alpha=1e-310, inside=[])
@given(interval=INTERVALS, alpha=st.floats(), inside=st.lists(st.floats(0, 1), max_size=5))
def test_old_modes_are_finite(interval: Interval, alpha: float, inside: list[float]) -> None:
    begin, end = interval
    if not sys.float_info.min <= alpha <= sys.float_info.max:
        with pytest.raises(ValueError, match='finite alpha > 0'):
            LegacyExponentialWarmup(alpha, end)
        return
    warmup = LegacyExponentialWarmup(alpha, end)
    decay = LegacyExponentialDecay(alpha, begin, end)
    for i in iterations(interval, inside):
        for schedule in (warmup, decay):
            assert math.isfinite(schedule(i))
            assert schedule(i) >= 0.0
    assert warmup(end) == decay(begin) == 1.0
    assert decay(end) == 0.0


@given(count=st.integers(1, 20), seed=st.integers(0, 2**70), iteration=st.integers(0, 2**62))
def test_one_of_several_has_its_turn(count: int, seed: int, iteration: int) -> None:
    turns = [RandomTurn(index, count, seed)(iteration) for index in range(count)]
    assert sorted(turns) == [0.0] * (count - 1) + [1.0]
