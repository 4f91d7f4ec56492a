"""What SegDistill did with the weight of a loss, for runs that must repeat old ones.

The shape of its exponential modes depends on the weight that they are factors of, `alpha`. With
alpha = 3 the warm-up starts at a third of the weight and not at 0, and the decay falls to less than
a thousandth of it in its first step. `ExponentialWarmup` and `ExponentialDecay` are what was meant.
"""

from __future__ import annotations

import sys
from typing import Any

from mmseg_kd.checks import check_interval, is_number
from mmseg_kd.errors import short_repr
from mmseg_kd.registry import SCHEDULES, build


@SCHEDULES.register_module()
class CountedFromOne:
    """What `schedule` gives one iteration later: the first iteration is its iteration 1.

    SegDistill counted so, and a converted config keeps the numbers of the old one.

    Args:
        schedule: The config of another schedule: `dict(type='LinearWarmup', end=2000)`.

    Raises:
        ValueError: `schedule` is no config of a schedule.

    Reference: `SDModule` of SegDistill, whose counter is raised before the losses see it.
    """

    def __init__(self, schedule: dict[str, Any]) -> None:
        self.schedule = build(SCHEDULES, schedule, 'schedule')

    def __call__(self, iteration: int) -> float:
        return float(self.schedule(iteration + 1))


@SCHEDULES.register_module()
class LegacyExponentialWarmup:
    """alpha ** (iteration / end) / alpha before `end`, 1 from there on.

    Args:
        alpha: The term's weight, > 0.
        end: First iteration with the factor 1.

    Raises:
        ValueError: Not alpha > 0, or not end > 0.

    Reference: `warmup_config` with mode 'exp' of SegDistill.
    """

    def __init__(self, alpha: float, end: int) -> None:
        self.alpha = _check_alpha(alpha)
        check_interval(0, end)
        self.end = end

    def __call__(self, iteration: int) -> float:
        return float(self.alpha ** (min(iteration / self.end, 1.0) - 1.0))


@SCHEDULES.register_module()
class LegacyExponentialDecay:
    """1 up to `begin`, then 0.001 alpha ** ((end - iteration) / (end - begin)) / alpha, then 0.

    Args:
        alpha: The term's weight, > 0.
        begin: Last iteration with the factor 1.
        end: First iteration with the factor 0.

    Raises:
        ValueError: Not alpha > 0, or not 0 <= begin < end.

    Reference: `earlydecay_config` with mode 'exp' of SegDistill.
    """

    def __init__(self, alpha: float, begin: int, end: int) -> None:
        self.alpha = _check_alpha(alpha)
        check_interval(begin, end)
        self.begin, self.end = begin, end

    def __call__(self, iteration: int) -> float:
        if iteration <= self.begin:
            return 1.0
        if iteration >= self.end:
            return 0.0
        left = (self.end - iteration) / (self.end - self.begin)
        return float(0.001 * self.alpha ** (left - 1.0))


def _check_alpha(alpha: float) -> float:
    # Of numbers less than this the reciprocal, which the factors come to, is infinite.
    if not (is_number(alpha) and alpha >= sys.float_info.min):
        raise ValueError(f'expected a finite alpha > 0, got {short_repr(alpha)}.')
    return alpha
