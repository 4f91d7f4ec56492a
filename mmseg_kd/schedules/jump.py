"""On and off."""

from __future__ import annotations

from mmseg_kd.registry import SCHEDULES
from mmseg_kd.schedules.interval import check_interval


@SCHEDULES.register_module()
class Jump:
    """1 from `begin` up to, not including, `end`; 0 elsewhere.

    Args:
        begin: First iteration with the factor 1.
        end: First iteration with the factor 0 again. None: never.

    Raises:
        ValueError: Not 0 <= begin < end.
    """

    def __init__(self, begin: int = 0, end: int | None = None) -> None:
        self.begin, self.end = begin, end
        check_interval(begin, begin + 1 if end is None else end)

    def __call__(self, iteration: int) -> float:
        return float(self.begin <= iteration and (self.end is None or iteration < self.end))
