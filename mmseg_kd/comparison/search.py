"""What a sweep tries next, and what it gives up: Optuna has the say."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import optuna
from optuna.trial import TrialState

from mmseg_kd.comparison.space import Range, Space
from mmseg_kd.comparison.sweep import SweepPlan, begin_trial
from mmseg_kd.runs.comparison import Run
from mmseg_kd.runs.log import scalar_files
from mmseg_kd.runs.sweep import Sweep, Trial

STORAGE = 'optuna.db'
# Trials that run to their end before any is given up, and the part of a run in which none is.
_WHOLE, _WARM_UP = 5, 0.25
# How often in a row Optuna may choose what was tried already.
_MOST_REPEATED = 100


class Search:
    """A study of Optuna in the sweep's folder: a tree-structured Parzen estimator, a median pruner.

    What the trials have measured is in their logs; the study learns it from there, whenever a
    trial is asked for. So a sweep that was stopped, in whatever way, goes on as if it had not been.

    Args:
        plan: Of the sweep.
        sweep: Its folder.
    """

    def __init__(self, plan: SweepPlan, sweep: Sweep) -> None:
        self.plan, self.sweep = plan, sweep
        self.distributions = _distributions(plan.space)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        length = int(plan.config_of({}).train_cfg.max_iters)
        self.study = optuna.create_study(
            storage=f'sqlite:///{sweep.folder / STORAGE}',
            study_name='sweep',
            direction='maximize' if plan.maximize else 'minimize',
            pruner=optuna.pruners.MedianPruner(_WHOLE, int(_WARM_UP * length)),
            load_if_exists=True,
        )
        # Trials of which the study does not know the end, by number; and sizes of their logs.
        self._open: dict[int, tuple[Trial, optuna.Trial]] = {}
        self._sizes: dict[int, int] = {}
        there = {trial.number: trial for trial in sweep.trials()}
        for one in self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            if one.params.keys() != self.distributions.keys():  # killed while it was asked for
                self.study.tell(one.number, state=TrialState.FAIL)
                continue
            trial = there.get(one.number) or self._begin(one.number, one.params)
            self._open[one.number] = (trial, optuna.Trial(self.study, one._trial_id))

    def trials(self) -> Iterator[Trial]:
        """Those that have not come to their end, then new ones, until there are as many as planned.

        One that failed stays open, and is tried again by the next command.
        """
        self.settle()
        yield from [trial for trial, _ in self._open.values()]
        while len(self.sweep.trials()) < self.plan.count:
            self.settle()
            trial = self._ask()
            if trial is None:
                return
            yield trial

    def is_hopeless(self, run: Run) -> bool:
        """Whether to end a trial: its best until now is worse than the median of others there."""
        assert isinstance(run, Trial)
        if run.number not in self._open:  # its last validation is in its log, its process not over
            return False
        size = sum(file.stat().st_size for file in scalar_files(run.folder))
        if run.is_pruned or size == self._sizes.get(run.number, 0):
            return False
        self._sizes[run.number] = size
        trial, asked = self._open[run.number]
        if not self._report(trial, asked) or trial.metrics() is not None:
            return False
        if asked.should_prune():
            trial.prune()
        return trial.is_pruned

    def settle(self) -> None:
        """Let the study know what has come to its end."""
        for number, (trial, asked) in list(self._open.items()):
            self._report(trial, asked)
            if (found := trial.metrics()) is not None:
                value = found[trial.metric]
                if math.isfinite(value):
                    self.study.tell(number, value)
                else:
                    self.study.tell(number, state=TrialState.FAIL)
            elif trial.is_pruned:
                self.study.tell(number, state=TrialState.PRUNED)
            else:
                continue
            del self._open[number]

    def _report(self, trial: Trial, asked: optuna.Trial) -> bool:
        """Pass validations on; returns whether there was a new one."""
        known = self.study.get_trials(deepcopy=False)[trial.number].intermediate_values
        new = {i: value for i, value in trial.validations().items() if i not in known}
        for iteration, value in new.items():
            asked.report(value, iteration)
        return bool(new)

    def _ask(self) -> Trial | None:
        """What to try next; None where that is nothing new."""
        for _ in range(_MOST_REPEATED):
            trials = self.study.get_trials(deepcopy=False)
            # A seed for each, so that one which goes on chooses as one that was never stopped.
            self.study.sampler = optuna.samplers.TPESampler(seed=self.plan.seed + len(trials))
            asked = self.study.ask(self.distributions)
            if any(one.params == asked.params for one in trials if one.state != TrialState.FAIL):
                self.study.tell(asked, state=TrialState.FAIL)
                continue
            trial = self._begin(asked.number, asked.params)
            self._open[asked.number] = (trial, asked)
            return trial
        print(f'Nothing that was not tried in {_MOST_REPEATED} proposals: no more trials.')
        return None

    def _begin(self, number: int, params: Mapping[str, Any]) -> Trial:
        options = {
            name: params[name]
            if isinstance(values, Range)
            else values[_choices(values).index(params[name])]
            for name, values in self.plan.space.items()
        }
        return begin_trial(self.plan, self.sweep, number, options)


def _choices(values: Any) -> list[str]:
    """What the study calls the values of a list: it knows words and numbers alone."""
    return [json.dumps(value, default=repr) for value in values]


def _distributions(space: Space) -> dict[str, optuna.distributions.BaseDistribution]:
    found: dict[str, optuna.distributions.BaseDistribution] = {}
    for name, values in space.items():
        if not isinstance(values, Range):
            found[name] = optuna.distributions.CategoricalDistribution(_choices(values))
        elif values.is_whole:
            found[name] = optuna.distributions.IntDistribution(
                int(values.low), int(values.high), values.log, int(values.step or 1)
            )
        else:
            found[name] = optuna.distributions.FloatDistribution(
                values.low, values.high, values.log, values.step
            )
    return found
