"""A plan: which methods are compared, on what, and how long each may train.

It is a config whose experiments are the methods, and which says beside them how they are compared:

    _base_ = '../_base_/camvid-360x480.py'
    experiments = {'alone': dict(), 'cgd': dict(options={'model.distillation': [...]})}
    comparison = dict(baseline='alone', seeds=3, iterations=4800)

So each method is also trained on its own by `mmseg-kd train PLAN.py::cgd`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

from mmengine.config import Config

from mmseg_kd.checks import is_integer, is_number
from mmseg_kd.comparison.budget import check_counts_iterations, stretch
from mmseg_kd.config.experiments import SEPARATOR, experiments_of
from mmseg_kd.config.file import apply_options, read_config_file
from mmseg_kd.config.load import check_config
from mmseg_kd.config.network_spec import is_distillation
from mmseg_kd.errors import ConfigError, Problems, nearest, short_repr
from mmseg_kd.evaluation.check_metric import check_metric
from mmseg_kd.runs.comparison import METRIC, TEACHER

KEYS = ('baseline', 'seeds', 'iterations', 'seconds', 'may_differ', 'teacher_options')
SEEDS = 3
# Where these differ, so does more than the method.
SAME = ('model.student', 'train_dataloader', 'val_dataloader', 'test_dataloader', 'test_evaluator')
# Beside the methods' folders there is this one, of the measurement of steps.
STEPS = 'steps'


@dataclass(frozen=True)
class Budget:
    """What each training may take: one of them, or neither for the configs' own lengths.

    Attributes:
        iterations: How many.
        seconds: Of training steps, whose time is measured first.
    """

    iterations: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Plan:
    """Methods to be compared.

    Attributes:
        file: Where it stands.
        baseline: The method that the others are measured against.
        methods: The whole config of each, by name, with its schedule at the plan's length.
        seeds: Each method is trained with each.
        teachers: A config for each of the different teachers that the plan's methods have, by which
            it is tested.
        seconds: What each training may take; None: its length is in its config.
    """

    file: str
    baseline: str
    methods: Mapping[str, Config]
    seeds: Sequence[int]
    teachers: Sequence[Config] = ()
    seconds: float | None = None

    def within(self, step_s: Mapping[str, float]) -> Plan:
        """The plan with as many iterations of each method as its seconds allow.

        Args:
            step_s: Seconds of a step, by method.

        Raises:
            ConfigError: They allow less than one validation.
        """
        assert self.seconds is not None
        problems = Problems()
        methods = {}
        for name, config in self.methods.items():
            methods[name] = deepcopy(config)
            with problems:
                _stretch(methods[name], int(self.seconds / step_s[name]), name)
        problems.raise_if_any()
        return replace(self, methods=methods)


def read_plan(
    file: str,
    seeds: int | None = None,
    budget: Budget | None = None,
    only: Sequence[str] | None = None,
) -> Plan:
    """The plan in a file.

    Args:
        file: A config with experiments, as on the command line.
        seeds: How many, the plan's own first; None: as the plan says.
        budget: Of each training; None: as the plan or else its config says.
        only: Methods to leave it at, the baseline beside them; None: all.

    Raises:
        ConfigError: It is none; `ManyErrors` where more than one thing is wrong with it.
    """
    own = read_config_file(file).get('comparison')
    if not isinstance(own, Mapping):
        raise ConfigError(
            f"{file}: expected comparison = dict(baseline='NAME', ...) beside the experiments, "
            f'got {short_repr(own)}.'
        )
    where = f'{file}: comparison'
    problems = Problems()
    problems.add_unknown_keys(own, KEYS, where)
    methods = {one.key: one.config for one in experiments_of(file) if one.key is not None}
    baseline = own.get('baseline')
    for name, wanted in (
        (baseline, f'{where}: baseline'),
        *((one, '--only') for one in only or ()),
    ):
        if not (isinstance(name, str) and name in methods):
            problems.add(
                ConfigError(
                    f'{wanted}: expected one of the experiments, got {short_repr(name)}; '
                    f'{nearest(name, methods)}.'
                )
            )
    for name in methods:
        if not re.fullmatch(r'\w[\w.+-]*', name) or name in (TEACHER, STEPS):
            problems.add(
                ConfigError(
                    f'{file}: experiment {name!r}: expected a name for a folder, of letters, '
                    f"digits and '._+-', and not {TEACHER!r} or {STEPS!r}, which are others'."
                )
            )
    may_differ = own.get('may_differ', ())
    if isinstance(may_differ, str):
        may_differ = (may_differ,)
    if not isinstance(may_differ, list | tuple):
        problems.add(
            ConfigError(
                f'{where}: may_differ: expected a list of {", ".join(SAME)}, got '
                f'{short_repr(may_differ)}.'
            )
        )
        may_differ = ()
    for place in may_differ:
        if place not in SAME:
            problems.add(ConfigError(f'{where}: may_differ: {place!r}; {nearest(place, SAME)}.'))
    numbers: Sequence[int] = ()
    with problems:
        numbers = _seeds(own.get('seeds', SEEDS), seeds)
    budget = budget or Budget(own.get('iterations'), own.get('seconds'))
    with problems:
        _check_budget(budget)
    for name, config in methods.items():
        config.pop('comparison', None)
        with problems:
            check_config(config, f'{file}{SEPARATOR}{name}')
    problems.raise_if_any()
    for name, config in methods.items():
        with problems:
            check_metric(METRIC, config, 'test', name)
        with problems:
            _check_alike(methods[str(baseline)], config, name, may_differ)
        with problems:
            if budget.iterations is None:
                check_counts_iterations(config)
            else:
                _stretch(config, budget.iterations, name)
    teachers = _teachers(methods)
    if 'teacher_options' in own:
        if not teachers:
            problems.add(ConfigError(f'{where}: teacher_options: no method has a teacher.'))
        teachers = [deepcopy(config) for config in teachers]
        for config in teachers:
            with problems:
                apply_options(config, own['teacher_options'], f'{where}: teacher_options')
    problems.raise_if_any()
    chosen = {
        name: config
        for name, config in methods.items()
        if only is None or name in only or name == baseline
    }
    return Plan(file, str(baseline), chosen, numbers, teachers, budget.seconds)


def _teachers(methods: Mapping[str, Config]) -> Sequence[Config]:
    """The first config of each teacher; whether its scores are stored makes no other of it."""
    found: list[Config] = []
    seen: list[Any] = []
    for config in methods.values():
        teacher = config.model.get('teacher') if is_distillation(config) else None
        one = _run(teacher)
        if teacher and one not in seen:
            seen.append(one)
            found.append(config)
    return found


def _run(teacher: Any) -> Any:
    """A teacher, or several, as if all were run."""
    if isinstance(teacher, Mapping):
        return {key: value for key, value in teacher.items() if key != 'stored'}
    return [*map(_run, teacher)] if isinstance(teacher, list | tuple) else teacher


def _seeds(given: Any, count: int | None = None) -> Sequence[int]:
    """Seeds from how many there are, or from a list of them.

    Args:
        given: From the plan.
        count: The first so many of them, and where they are fewer those above the largest; None:
            all.
    """
    numbers = list(range(given)) if is_integer(given) else given
    if not (isinstance(numbers, list | tuple) and numbers and all(map(is_integer, numbers))):
        raise ConfigError(
            f'seeds: expected how many, 1 or more, or a list of whole numbers, got '
            f'{short_repr(given)}.'
        )
    if len(set(numbers)) < len(numbers):
        raise ConfigError(f'seeds: expected each once, got {list(numbers)}.')
    if count is not None:
        if count < 1:
            raise ConfigError(f'--seeds: expected how many, 1 or more, got {count}.')
        numbers = [*numbers, *range(max(numbers) + 1, max(numbers) + 1 + count)][:count]
    if not all(0 <= one < 2**32 for one in numbers):
        raise ConfigError(f'seeds: expected numbers from 0 to 2**32 - 1, got {list(numbers)}.')
    return list(numbers)


def _check_budget(budget: Budget) -> None:
    iterations, seconds = budget.iterations, budget.seconds
    if iterations is not None and seconds is not None:
        raise ConfigError('expected a budget of iterations or of seconds, got both.')
    if iterations is not None and not (is_integer(iterations) and iterations > 0):
        raise ConfigError(f'iterations: expected a whole number > 0, got {iterations!r}.')
    if seconds is not None and not (is_number(seconds) and seconds > 0):
        raise ConfigError(f'seconds: expected a number > 0, got {seconds!r}.')


def _stretch(config: Config, iterations: int, name: str) -> None:
    try:
        stretch(config, iterations)
    except ConfigError as error:
        raise ConfigError(f'{name}: {error}') from error


def _check_alike(baseline: Config, config: Config, name: str, may_differ: Sequence[str]) -> None:
    """See that a method has the student and the data of the baseline."""
    problems = Problems()
    for place in SAME:
        ours: Any = config
        theirs: Any = baseline
        for key in place.split('.'):
            ours, theirs = ours.get(key) or {}, theirs.get(key) or {}
        if ours != theirs and place not in may_differ:
            problems.add(
                ConfigError(
                    f'{name}: {place} is another than the baseline has, so that their figures '
                    f'could not be compared; make them alike, or say comparison.may_differ='
                    f'[{place!r}].'
                )
            )
    problems.raise_if_any()
