"""A config's whole schedule at another length."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

from mmengine.config import Config

from mmseg_kd.config.recipes import terms_of_entry
from mmseg_kd.errors import ConfigError

# What of a scheduler and of a term's schedule counts iterations.
_POINTS = ('begin', 'end', 'T_max', 'step_size', 'total_iters', 'total_steps')
_LISTS = ('milestones', 'periods')


def check_counts_iterations(cfg: Config) -> None:
    """See that a training is counted in iterations, as a budget is.

    Raises:
        ConfigError: It is not.
    """
    loop = cfg.get('train_cfg') or {}
    if 'max_iters' not in loop:
        raise ConfigError(
            'train_cfg: expected max_iters, as a budget is counted in iterations; got '
            f'{sorted(loop)}.'
        )
    for scheduler in _schedulers(cfg):
        if scheduler.get('by_epoch', True):
            raise ConfigError(
                'param_scheduler: expected by_epoch=False, as the budget is counted in iterations; '
                f'got {dict(scheduler)}.'
            )


def stretch(cfg: Config, iterations: int) -> None:
    """Make a training take `iterations`, and all that has its place in it in proportion.

    Learning rates, the weights of terms, validations and checkpoints keep their share of the run.

    Args:
        cfg: Is changed.
        iterations: At least as many as the config has validations.

    Raises:
        ConfigError: The training is not counted in iterations, the budget is under one
            validation, or an entry of `distillation` names no recipe.
    """
    check_counts_iterations(cfg)
    loop = cfg.train_cfg
    factor = iterations / Fraction(loop.max_iters)  # a float would round 112 up to 113
    interval = loop.setdefault('val_interval', 1000)  # mmengine's own
    if cfg.get('val_cfg') is not None and min(interval, loop.max_iters) * factor < 1:
        raise ConfigError(
            f'a budget of {iterations} iterations is under one validation, of which the config has '
            f'{loop.max_iters // interval} in {loop.max_iters}; expected more, or a larger '
            'train_cfg.val_interval.'
        )
    loop.max_iters = iterations
    # Rounded up, so that the last validation is that at the end, and no other just before it.
    for key in ('val_interval', 'val_begin'):
        if key in loop:
            loop[key] = math.ceil(loop[key] * factor)
    if loop.get('dynamic_intervals'):
        loop.dynamic_intervals = [
            (_scaled(begin, factor), max(math.ceil(every * factor), 1))
            for begin, every in loop.dynamic_intervals
        ]
    for scheduler in _schedulers(cfg):
        _stretch_points(scheduler, factor)
        if str(scheduler.get('type')).startswith('Exponential') and 'gamma' in scheduler:
            scheduler.gamma **= float(1 / factor)  # a factor of each iteration
    checkpoint = cfg.get('default_hooks', {}).get('checkpoint')
    if checkpoint is not None and checkpoint.get('interval', -1) > 0:
        checkpoint.interval = math.ceil(checkpoint.interval * factor)
    for hook in cfg.get('custom_hooks') or ():
        if 'begin_iter' in hook:  # of averaged weights
            hook['begin_iter'] = _scaled(hook['begin_iter'], factor)
    entries = cfg.model.get('distillation')
    if entries:
        cfg.model.distillation = [*_with_schedules(entries)]
    for term in cfg.model.get('distillation') or ():
        for schedule in _listed(term.get('schedule')):
            _stretch_points(schedule, factor)
    for schedule in _listed(cfg.model.get('task_schedule')):
        _stretch_points(schedule, factor)


def _with_schedules(entries: Sequence[Any]) -> Iterator[Any]:
    """Entries of `distillation`; recipes that have schedules of their own are written out."""
    for index, entry in enumerate(entries):
        terms = terms_of_entry(entry, f'distillation[{index}]')
        has_own = 'schedule' not in entry and any('schedule' in term for term in terms)
        yield from terms if has_own else [entry]


def _schedulers(cfg: Config) -> Iterator[Any]:
    """All of a config; a dict of lists is one by optimiser."""
    given = cfg.get('param_scheduler')
    if isinstance(given, Mapping) and 'type' not in given:
        for one in given.values():
            yield from _listed(one)
    else:
        yield from _listed(given)


def _listed(value: Any) -> list[Any]:
    """Dicts that may stand alone, in a list, or not at all."""
    found = list(value) if isinstance(value, list | tuple) else [value]
    return [one for one in found if isinstance(one, Mapping)]


def _stretch_points(schedule: Any, factor: Fraction) -> None:
    """Move what a schedule has its place by; its begin and its end stay apart."""
    apart = schedule.get('begin', 0) < (schedule.get('end') or 0)
    for key in _POINTS:
        if isinstance(schedule.get(key), int):
            schedule[key] = _scaled(schedule[key], factor)
    for key in _LISTS:
        if key in schedule:
            schedule[key] = [_scaled(one, factor) for one in schedule[key]]
    if apart:
        schedule['end'] = max(schedule['end'], schedule.get('begin', 0) + 1)
    inner = schedule.get('schedule')  # counted in another way
    if isinstance(inner, Mapping):
        _stretch_points(inner, factor)


def _scaled(count: int, factor: Fraction) -> int:
    return max(round(count * factor), 1) if count else 0
