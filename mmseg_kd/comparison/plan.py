"""A plan: which methods are compared, on what, and how long each may train.

It is a config whose experiments are the methods, and which says beside them how they are compared:

    _base_ = '../_base_/camvid-360x480.py'
    experiments = {'alone': dict(), 'cgd': dict(options={'model.distillation': [...]})}
    comparison = dict(baseline='alone', seeds=3, iterations=4800)

So each method is also trained on its own by `mmseg-kd train PLAN.py::cgd`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config

from mmseg_kd.checks import is_integer
from mmseg_kd.comparison.budget import stretch
from mmseg_kd.config.experiments import experiments_of
from mmseg_kd.config.file import read_config_file
from mmseg_kd.errors import ConfigError, Problems, nearest, short_repr

KEYS = ('baseline', 'seeds', 'iterations', 'may_differ')


@dataclass(frozen=True)
class Plan:
    """Methods to be compared.

    Attributes:
        file: Where it stands.
        baseline: The method that the others are measured against.
        methods: The whole config of each, by name, with its schedule at the plan's length.
        seeds: Each method is trained with each.
    """

    file: str
    baseline: str
    methods: Mapping[str, Config]
    seeds: Sequence[int]


def read_plan(
    file: str,
    seeds: int | None = None,
    iterations: int | None = None,
    only: Sequence[str] | None = None,
) -> Plan:
    """The plan in a file.

    Args:
        file: A config with experiments, as on the command line.
        seeds: How many; None: as the plan says.
        iterations: Of each training; None: as the plan or else its config says.
        only: Methods to leave it at; None: all.

    Raises:
        ConfigError: It is none; `ManyErrors` where more than one thing is wrong with it.
    """
    own = read_config_file(file).get('comparison')
    if not isinstance(own, Mapping):
        raise ConfigError(
            f"{file}: expected comparison = dict(baseline='NAME', ...) beside the experiments, "
            f'got {short_repr(own)}.'
        )
    problems = Problems()
    for key in own:
        if key not in KEYS:
            problems.add(
                ConfigError(f'{file}: comparison: unknown key {key!r}; {nearest(key, KEYS)}.')
            )
    methods = {one.key: one.config for one in experiments_of(file) if one.key is not None}
    baseline = str(own.get('baseline'))
    if baseline not in methods:
        problems.add(
            ConfigError(
                f'{file}: comparison: baseline: expected one of its experiments, got '
                f'{short_repr(own.get("baseline"))}; {nearest(baseline, list(methods))}.'
            )
        )
    for name in only or ():
        if name not in methods:
            problems.add(
                ConfigError(f'{file} has no method {name!r}; {nearest(name, list(methods))}.')
            )
    with problems:
        numbers = _seeds(own.get('seeds', 1) if seeds is None else seeds)
    length = own.get('iterations') if iterations is None else iterations
    if length is not None and not (is_integer(length) and length > 0):
        problems.add(ConfigError(f'iterations: expected a whole number > 0, got {length!r}.'))
    problems.raise_if_any()
    for name, cfg in methods.items():
        cfg.pop('comparison', None)
        with problems:
            _check_alike(methods[baseline], cfg, name, own.get('may_differ', ()))
        with problems:
            if length is not None:
                stretch(cfg, length)
    problems.raise_if_any()
    chosen = {name: cfg for name, cfg in methods.items() if only is None or name in only}
    return Plan(file, baseline, chosen, numbers)


def _seeds(given: Any) -> Sequence[int]:
    """Seeds from how many there are, or from a list of them."""
    numbers = list(range(given)) if is_integer(given) else given
    if not (isinstance(numbers, list) and numbers and all(map(is_integer, numbers))):
        raise ConfigError(f'seeds: expected a number of them, or a list, got {short_repr(given)}.')
    if len(set(numbers)) < len(numbers):
        raise ConfigError(f'seeds: expected each once, got {numbers}.')
    return numbers


# Where these differ, so does more than the method.
_SAME = ('model.student', 'train_dataloader', 'val_dataloader', 'test_dataloader')


def _check_alike(baseline: Config, cfg: Config, name: str, may_differ: Sequence[str]) -> None:
    """See that a method has the student and the data of the baseline."""
    for place in _SAME:
        ours, theirs = cfg, baseline
        for key in place.split('.'):
            ours, theirs = ours.get(key) or {}, theirs.get(key) or {}
        if ours != theirs and place not in may_differ:
            raise ConfigError(
                f'{name}: {place} is another than the baseline has, so that their figures could '
                f'not be compared; make them alike, or say comparison.may_differ=[{place!r}].'
            )
