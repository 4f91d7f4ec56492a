"""Straight lines up and down."""

from __future__ import annotations

from mmseg_kd.checks import check_interval
from mmseg_kd.registry import SCHEDULES


@SCHEDULES.register_module()
class LinearWarmup:
    """0 up to `begin`, then a straight line, 1 from `end` on.

    Args:
        end: First iteration with the factor 1.
        begin: Last iteration with the factor 0.

    Raises:
        ValueError: Not whole numbers with 0 <= begin < end.
    """

    def __init__(self, end: int, begin: int = 0) -> None:
        check_interval(begin, end)
        self.begin, self.end = begin, end

    def __call__(self, iteration: int) -> float:
        return min(max((iteration - self.begin) / (self.end - self.begin), 0.0), 1.0)


@SCHEDULES.register_module()
class LinearDecay:
    """1 up to `begin`, then a straight line, 0 from `end` on.

    Args:
        begin: Last iteration with the factor 1.
        end: First iteration with the factor 0.

    Raises:
        ValueError: Not whole numbers with 0 <= begin < end.
    """

    def __init__(self, begin: int, end: int) -> None:
        check_interval(begin, end)
        self.begin, self.end = begin, end

    def __call__(self, iteration: int) -> float:
        return min(max((self.end - iteration) / (self.end - self.begin), 0.0), 1.0)
