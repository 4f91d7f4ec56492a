"""The weight of the student's own losses beside its terms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmseg_kd.config.fields import is_weight
from mmseg_kd.config.term_spec import Schedule, parse_schedules
from mmseg_kd.errors import Problems, short_repr
from mmseg_kd.host.iteration import current_iteration


@dataclass(frozen=True)
class TaskWeight:
    """A number times the factors of schedules."""

    weight: float = 1.0
    schedules: tuple[Schedule, ...] = ()

    def current(self) -> float:
        """The weight at the current iteration, which nobody need count without a schedule."""
        if not self.schedules:
            return self.weight
        iteration = current_iteration()
        return self.weight * math.prod(schedule(iteration) for schedule in self.schedules)


def parse_task_weight(weight: Any, schedule: Any, problems: Problems) -> TaskWeight:
    """Read `task_weight` and `task_schedule`.

    Args:
        weight: A finite number >= 0.
        schedule: A schedule's dict, a list of them, or None.
        problems: Gets all that is wrong with them.
    """
    if not is_weight(weight):
        problems.add(f'task_weight: expected a finite number >= 0, got {short_repr(weight)}.')
        weight = 1.0
    listed = [schedule] if isinstance(schedule, Mapping) else schedule or []
    if not isinstance(listed, (list, tuple)):
        problems.add(
            f'task_schedule: expected a dict or a list of dicts, got {short_repr(schedule)}.'
        )
        listed = []
    return TaskWeight(float(weight), parse_schedules(listed, 'task_schedule', problems))
