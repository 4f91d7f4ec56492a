"""Exponential curves up and down."""

from __future__ import annotations

from mmseg_kd.checks import check_interval, is_number
from mmseg_kd.errors import short_repr
from mmseg_kd.registry import SCHEDULES


@SCHEDULES.register_module()
class ExponentialWarmup:
    """0 before `begin`, then from `floor` up to 1 by a constant ratio, 1 from `end` on.

    Between them the factor is floor ** ((end - iteration) / (end - begin)).

    Args:
        end: First iteration with the factor 1.
        begin: Iteration with the factor `floor`.
        floor: Where the curve starts, between 0 and 1.

    Raises:
        ValueError: Not whole numbers with 0 <= begin < end, or not 0 < floor < 1.
    """

    def __init__(self, end: int, begin: int = 0, floor: float = 1e-3) -> None:
        check_interval(begin, end)
        self.begin, self.end = begin, end
        self.floor = _check_floor(floor)

    def __call__(self, iteration: int) -> float:
        if iteration < self.begin:
            return 0.0
        left = max(self.end - iteration, 0) / (self.end - self.begin)
        return float(self.floor**left)


@SCHEDULES.register_module()
class ExponentialDecay:
    """1 up to `begin`, then down to `floor` by a constant ratio, 0 from `end` on.

    Between them the factor is floor ** ((iteration - begin) / (end - begin)).

    Args:
        begin: Last iteration with the factor 1.
        end: First iteration with the factor 0.
        floor: Where the curve ends, between 0 and 1.

    Raises:
        ValueError: Not whole numbers with 0 <= begin < end, or not 0 < floor < 1.
    """

    def __init__(self, begin: int, end: int, floor: float = 1e-3) -> None:
        check_interval(begin, end)
        self.begin, self.end = begin, end
        self.floor = _check_floor(floor)

    def __call__(self, iteration: int) -> float:
        if iteration >= self.end:
            return 0.0
        done = max(iteration - self.begin, 0) / (self.end - self.begin)
        return float(self.floor**done)


def _check_floor(floor: float) -> float:
    if not (is_number(floor) and 0 < floor < 1):
        raise ValueError(f'expected 0 < floor < 1, got {short_repr(floor)}.')
    return floor
