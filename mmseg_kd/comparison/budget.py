"""A config's whole schedule at another length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from mmseg_kd.errors import ConfigError

# What of a scheduler and of a term's schedule counts iterations.
_POINTS = ('begin', 'end', 'T_max', 'step_size', 'total_iters', 'milestones')


def stretch(cfg: Config, iterations: int) -> None:
    """Make a training take `iterations`, and all that has its place in it in proportion.

    Learning rates, the weights of terms, validations and checkpoints keep their share of the run.

    Args:
        cfg: Is changed.
        iterations: At least 1.

    Raises:
        ConfigError: The training is not counted in iterations.
    """
    loop = cfg.train_cfg
    if 'max_iters' not in loop:
        raise ConfigError(
            'train_cfg: expected max_iters, as a budget is counted in iterations; got '
            f'{sorted(loop)}.'
        )
    factor = iterations / loop.max_iters
    loop.max_iters = iterations
    if 'val_interval' in loop:
        loop.val_interval = _scaled(loop.val_interval, factor)
    schedulers = cfg.get('param_scheduler') or []
    for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
        if scheduler.get('by_epoch', True):
            raise ConfigError(
                'param_scheduler: expected by_epoch=False, as the budget is counted in iterations; '
                f'got {scheduler.to_dict()}.'
            )
        _stretch_points(scheduler, factor)
    checkpoint = cfg.get('default_hooks', {}).get('checkpoint')
    if checkpoint is not None and checkpoint.get('interval', -1) > 0:
        checkpoint.interval = _scaled(checkpoint.interval, factor)
    for term in cfg.model.get('distillation') or ():
        if isinstance(term.get('schedule'), Mapping):
            _stretch_points(term.schedule, factor)


def _stretch_points(schedule: Any, factor: float) -> None:
    for key in _POINTS:
        if key not in schedule:
            continue
        value = schedule[key]
        if isinstance(value, list | tuple):
            schedule[key] = [_scaled(one, factor) for one in value]
        else:
            schedule[key] = _scaled(value, factor) if value else value


def _scaled(count: int, factor: float) -> int:
    return max(round(count * factor), 1)
