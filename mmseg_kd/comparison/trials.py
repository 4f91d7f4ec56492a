"""A sweep's trials, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

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
    there = {trial.number: trial for trial in sweep.trials()}
    for number, options in enumerate(grid(plan.space) or ()):
        yield there.get(number) or begin_trial(plan, sweep, number, options)
