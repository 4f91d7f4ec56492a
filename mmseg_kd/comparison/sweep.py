"""A sweep: one config with some of its options tried at several values.

The plan is that config, which says beside the rest what is tried, and how it is judged:

    sweep = dict(
        space={
            'model.distillation.0.weight': [1.0, 3.0, 6.0],
            'model.distillation.0.loss.tau': dict(low=1.0, high=8.0, log=True),
        },
        trials=20,
        held_out=dict(every=6, block=12),
    )

Without `trials` all combinations of lists are tried; with them Optuna chooses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

from mmseg_kd.checkpoints.save import atomic_write
from mmseg_kd.checks import is_integer
from mmseg_kd.comparison.budget import check_counts_iterations, stretch
from mmseg_kd.comparison.folder import check_same
from mmseg_kd.comparison.held_out import hold_out
from mmseg_kd.comparison.plan import SEEDS
from mmseg_kd.comparison.space import Space, check_places, grid, one_by_one, read_space
from mmseg_kd.config.file import apply_options
from mmseg_kd.config.load import load_config
from mmseg_kd.engine.training import check_config
from mmseg_kd.errors import ConfigError, Problems, short_repr
from mmseg_kd.evaluation.check_metric import check_metric
from mmseg_kd.host.quiet import as_config_error
from mmseg_kd.runs.comparison import METRIC
from mmseg_kd.runs.sweep import Sweep, Trial

KEYS = ('space', 'trials', 'metric', 'direction', 'seed', 'iterations', 'held_out')
DIRECTIONS = ('maximize', 'minimize')
# In the work dir: what was swept, and what compares its best with the plan as it was.
PLAN, BEST = 'plan.py', 'best.py'


@dataclass(frozen=True)
class SweepPlan:
    """What is tried, and how it is judged.

    Attributes:
        file: Where it stands.
        config: What the options change.
        given: What the plan says beside that.
        space: What is tried of each option.
        metric: Of validation, by which trials are judged.
        maximize: Whether more of it is better.
        seed: Of all trainings.
        count: How many trials there are.
        is_grid: Whether they are all combinations; else Optuna chooses.
    """

    file: str
    config: Config = field(repr=False)
    given: Mapping[str, Any]
    space: Space
    metric: str
    maximize: bool
    seed: int
    count: int
    is_grid: bool

    @property
    def validates_on_test(self) -> bool:
        """Whether trials are judged by the data that a test measures."""
        val, test = (self.config.get(f'{one}_dataloader') for one in ('val', 'test'))
        return bool(val and test) and val.dataset == test.dataset and not self.given.get('held_out')

    def config_of(self, options: Mapping[str, Any]) -> Config:
        """What a trial trains."""
        config = deepcopy(self.config)
        apply_options(config, options, 'space')
        if self.given.get('held_out') is not None:
            hold_out(config, self.given['held_out'], 'held_out')
        self._stretch(config)
        return config

    def text(self) -> str:
        """What two plans that can share a folder have in common."""
        given = {key: value for key, value in self.given.items() if key != 'trials'}
        whole = {**self.config.to_dict(), 'sweep': {**given, 'is_grid': self.is_grid}}
        return str(Config(whole).pretty_text)

    def comparison_with(self, options: Mapping[str, Any]) -> str:
        """A plan of `mmseg-kd compare`: the best against the config as it is, on other seeds.

        They are trained on all of train, and tested.
        """
        config = deepcopy(self.config)
        self._stretch(config)
        seeds = [self.seed + number + 1 for number in range(SEEDS)]
        config.experiments = dict(plan=dict(), best=dict(options=dict(options)))
        config.comparison = dict(baseline='plan', seeds=seeds)
        return str(config.pretty_text)

    def _stretch(self, config: Config) -> None:
        if self.given.get('iterations') is None:
            check_counts_iterations(config)
        else:
            stretch(config, self.given['iterations'])


def read_sweep_plan(file: str, trials: int | None = None) -> SweepPlan:
    """The sweep in a file; each value is tried in its config, and the networks are built.

    Args:
        file: A config, as on the command line.
        trials: How many; None: as the plan says.

    Raises:
        ConfigError: It is none; `ManyErrors` where more than one thing is wrong with it.
    """
    config = load_config(file, None)
    given = config.pop('sweep', None)
    if not isinstance(given, Mapping):
        raise ConfigError(
            f'{file}: expected sweep = dict(space={{...}}, ...) in the config, got '
            f'{short_repr(given)}.'
        )
    where = f'{file}: sweep'
    problems = Problems()
    problems.add_unknown_keys(given, KEYS, where)
    space: Space = {}
    with problems:
        space = read_space(given.get('space'), f'{where}: space')
        check_places(space, config, f'{where}: space')
    metric = given.get('metric', METRIC)
    with problems:
        check_metric(metric, config, 'val', f'{where}: metric')
    direction = given.get('direction', DIRECTIONS[0])
    if direction not in DIRECTIONS:
        problems.add(
            ConfigError(f'{where}: direction: expected one of {DIRECTIONS}, got {direction!r}.')
        )
    seed, iterations = given.get('seed', 0), given.get('iterations')
    # The seeds that the best is compared on follow.
    if not (is_integer(seed) and 0 <= seed < 2**32 - SEEDS):
        problems.add(ConfigError(f'{where}: seed: expected a whole number >= 0, got {seed!r}.'))
    if iterations is not None and not (is_integer(iterations) and iterations >= 1):
        problems.add(
            ConfigError(f'{where}: iterations: expected a whole number >= 1, got {iterations!r}.')
        )
    count = given.get('trials') if trials is None else trials
    if count is not None and not (is_integer(count) and count >= 1):
        problems.add(ConfigError(f'{where}: trials: expected a whole number >= 1, got {count!r}.'))
    problems.raise_if_any()
    all_of_it = grid(space)
    if count is None and all_of_it is None:
        raise ConfigError(
            f'{where}: expected trials=N, as a range in space has no end of values; got none.'
        )
    if count is not None and find_spec('optuna') is None:
        raise ConfigError(
            f'{where}: trials={count} are chosen by Optuna, which is not installed: pip install '
            "'mmseg-kd[sweep]'; or leave `trials` out to try all combinations of lists."
        )
    most = math.inf if all_of_it is None else len(all_of_it)
    plan = SweepPlan(
        file,
        config,
        given,
        space,
        metric,
        maximize=direction == DIRECTIONS[0],
        seed=seed,
        count=int(most if count is None else min(count, most)),
        is_grid=count is None,
    )
    _check_values(plan, where)
    return plan


def _check_values(plan: SweepPlan, where: str) -> None:
    """Try each value in the config, with the others as they are."""
    init_default_scope('mmseg')
    with as_config_error(plan.file):
        _check_whole(plan.config_of({}))
    problems = Problems()
    for name, value in one_by_one(plan.space):
        with problems:
            try:
                _check_whole(plan.config_of({name: value}))
            except ConfigError as error:
                raise ConfigError(f'{where}: space: {name}={short_repr(value)}: {error}') from error
    problems.raise_if_any()


def _check_whole(config: Config) -> None:
    check_config(config)
    with as_config_error('model'):
        MODELS.build(config.model)


def begin_sweep(plan: SweepPlan, folder: Path) -> Sweep:
    """Write what the folder is; trials that are there already are kept.

    Raises:
        ConfigError: It is of another sweep. Nothing is written then.
    """
    text = plan.text()
    if (folder / PLAN).exists():
        check_same(folder / PLAN, text, plan.file)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / PLAN) as unfinished:
            unfinished.write_text(text, encoding='utf-8')
    sweep = Sweep(
        folder, plan.file, list(plan.space), plan.metric, plan.maximize, plan.seed, plan.count
    )
    sweep.write()
    return sweep


def begin_trial(plan: SweepPlan, sweep: Sweep, number: int, options: Mapping[str, Any]) -> Trial:
    """A new trial, with its config in its folder."""
    config = plan.config_of(options)
    trial = sweep.trial(number, options, int(config.train_cfg.max_iters))
    sweep.begin(trial, str(config.pretty_text))
    return trial
