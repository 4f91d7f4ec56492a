"""A sweep's trials, one after the other."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any

from mmseg_kd.comparison.queue import Outcome, run_all
from mmseg_kd.comparison.space import grid
from mmseg_kd.comparison.sweep import SweepPlan, begin_trial
from mmseg_kd.runs.sweep import Sweep, Trial


def run_sweep(plan: SweepPlan, sweep: Sweep, places: Sequence[Mapping[str, str]]) -> Outcome:
    """Run what has no result yet, as `run_all`."""
    if plan.is_grid:
        return run_all(_grid_trials(plan, sweep), places)
    from mmseg_kd.comparison.search import Search  # Optuna is an extra

    search = Search(plan, sweep)
    outcome = run_all(search.trials(), places, search.is_hopeless)
    search.settle()
    return outcome


def _grid_trials(plan: SweepPlan, sweep: Sweep) -> Iterator[Trial]:
    there = {_key(trial.options): trial for trial in sweep.trials()}
    numbers = count(max((trial.number for trial in there.values()), default=-1) + 1)
    for options in grid(plan.space) or ():
        yield there.get(_key(options)) or begin_trial(plan, sweep, next(numbers), options)


def _key(options: Mapping[str, Any]) -> frozenset[tuple[str, str]]:
    """What makes trials the same, in whatever order a plan has its options."""
    return frozenset((name, json.dumps(one, default=repr)) for name, one in options.items())
