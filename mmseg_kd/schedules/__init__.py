"""Schedules: functions from the iteration to a factor in [0, 1], without state."""

from mmseg_kd.schedules.jump import Jump
from mmseg_kd.schedules.linear import LinearDecay, LinearWarmup

__all__ = ['Jump', 'LinearDecay', 'LinearWarmup']
