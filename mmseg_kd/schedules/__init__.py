"""Schedules: functions from the iteration to a factor >= 0, without state.

A runner counts the iterations; a loop of your own says which it is in by `at_iteration`.
"""

from mmseg_kd.host.iteration import at_iteration
from mmseg_kd.schedules.exponential import ExponentialDecay, ExponentialWarmup
from mmseg_kd.schedules.jump import Jump
from mmseg_kd.schedules.legacy import LegacyExponentialDecay, LegacyExponentialWarmup
from mmseg_kd.schedules.linear import LinearDecay, LinearWarmup
from mmseg_kd.schedules.random_turn import RandomTurn

__all__ = [
    'ExponentialDecay',
    'ExponentialWarmup',
    'Jump',
    'LegacyExponentialDecay',
    'LegacyExponentialWarmup',
    'LinearDecay',
    'LinearWarmup',
    'RandomTurn',
    'at_iteration',
]
