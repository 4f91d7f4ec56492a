"""On and off."""

from __future__ import annotations

from mmseg_kd.checks import check_interval, is_integer
from mmseg_kd.errors import short_repr
from mmseg_kd.registry import SCHEDULES


@SCHEDULES.register_module()
class Jump:
    """1 from `begin` up to, not including, `end`; 0 elsewhere.

    Args:
        begin: First iteration with the factor 1.
        end: First iteration with the factor 0 again. None: never.

    Raises:
        ValueError: Not whole numbers with 0 <= begin < end.
    """

    def __init__(self, begin: int = 0, end: int | None = None) -> None:
        if end is not None:
            check_interval(begin, end)
        elif not (is_integer(begin) and begin >= 0):
            raise ValueError(f'expected a whole number begin >= 0, got {short_repr(begin)}.')
        self.begin, self.end = begin, end

    def __call__(self, iteration: int) -> float:
        return float(self.begin <= iteration and (self.end is None or iteration < self.end))
