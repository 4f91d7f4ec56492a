"""Terms over several teachers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmseg_kd.checks import is_integer, is_number
from mmseg_kd.errors import ConfigError, nearest, short_repr

REDUCTIONS = ('sum', 'mean', 'random')


def choose_teachers(value: Any, where: str, teachers: Sequence[str]) -> list[str]:
    """Names of the teachers that a term asks for.

    Args:
        value: A name or an index, or a list of these; None: the only one there is.
        where: The place in the user's config, for messages.
        teachers: Names of the config's teachers, in its order.

    Raises:
        ConfigError: There is no such teacher, or one is named twice.
    """
    if value is None:
        if len(teachers) > 1:
            raise ConfigError(f'{where}: expected one or more of {list(teachers)}, got none.')
        return list(teachers)
    chosen: list[str] = []
    for one in value if isinstance(value, (list, tuple)) else [value]:
        if is_integer(one) and 0 <= one < len(teachers):
            chosen.append(teachers[one])
        elif isinstance(one, str) and one in teachers:
            chosen.append(one)
        else:
            raise ConfigError(
                f'{where}: there is no teacher {short_repr(one)}; expected one of {list(teachers)} '
                'or an index.'
            )
    if not chosen or len(set(chosen)) < len(chosen):
        raise ConfigError(
            f'{where}: expected one or more different teachers, got {short_repr(value)}.'
        )
    return chosen


def expand_teachers(cfg: Any, where: str, teachers: Sequence[str]) -> list[dict[str, Any]]:
    """An entry of `distillation` over several teachers as entries over one teacher each.

    With `reduction` 'sum', the default, each counts with its entry of `teacher_weights`; with
    'random' they take turns, one drawn in each iteration. With 'mean' the entry stays one, and
    its loss averages the teachers' distributions.

    Args:
        cfg: The entry. It is not changed.
        where: The place in the user's config, for messages.
        teachers: Names of the config's teachers, in its order.

    Raises:
        ConfigError: The teachers, the reduction or the weights are not what they must be.
    """
    if not isinstance(cfg, Mapping):
        raise ConfigError(f'{where}: expected a dict, got {short_repr(cfg)}.')
    for key in cfg:
        if not isinstance(key, str):
            raise ConfigError(f'{where}: expected words for keys, got {short_repr(key)}.')
    rest = {k: v for k, v in cfg.items() if k not in ('teacher', 'reduction', 'teacher_weights')}
    schedule = _schedules(cfg.get('schedule'), f'{where}.schedule')
    chosen = choose_teachers(cfg.get('teacher'), f'{where}.teacher', teachers)
    reduction = cfg.get('reduction')
    weights = cfg.get('teacher_weights')
    if reduction not in (None, *REDUCTIONS):
        raise ConfigError(
            f'{where}.reduction: expected one of {REDUCTIONS}, got {short_repr(reduction)}; '
            f'{nearest(reduction, REDUCTIONS)}.'
        )
    if len(chosen) < 2 and (reduction is not None or weights is not None):
        key = 'teacher_weights' if reduction is None else 'reduction'
        raise ConfigError(f'{where}.{key} needs several teachers: teacher=[...].')
    if weights is not None:
        _check_weights(weights, reduction, len(chosen), f'{where}.teacher_weights')
    layer = cfg.get('teacher_layer')
    if isinstance(layer, Mapping) and set(layer) != set(chosen):
        raise ConfigError(
            f'{where}.teacher_layer: expected a layer for each of {chosen}, got layers for '
            f'{list(layer)}.'
        )
    if len(chosen) < 2 or reduction == 'mean':
        return [{**rest, 'teacher': chosen, 'schedule': schedule}]
    entries = []
    for index, name in enumerate(chosen):
        entry = {**rest, 'teacher': [name], 'schedule': schedule}
        if isinstance(layer, Mapping):
            entry['teacher_layer'] = layer[name]
        if isinstance(cfg.get('name'), str):
            entry['name'] = f'{cfg["name"]}_{name}'
        if weights is not None and is_weight(cfg.get('weight', 1.0)):
            entry['weight'] = cfg.get('weight', 1.0) * weights[index]
        if reduction == 'random':
            turn = dict(type='RandomTurn', index=index, count=len(chosen))
            entry['schedule'] = [*schedule, turn]
        entries.append(entry)
    return entries


def is_weight(value: Any) -> bool:
    """Whether a value is a finite number >= 0."""
    return is_number(value) and value >= 0


def _schedules(value: Any, where: str) -> list[Any]:
    """One schedule's dict, or a list of them, as a list."""
    if value is None or isinstance(value, Mapping):
        return [] if value is None else [value]
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f'{where}: expected a dict or a list of dicts, got {short_repr(value)}.')
    return list(value)


def _check_weights(weights: Any, reduction: str | None, count: int, where: str) -> None:
    if reduction not in (None, 'sum'):
        raise ConfigError(f"{where} goes with reduction='sum', got {short_repr(reduction)}.")
    if not (
        isinstance(weights, (list, tuple))
        and len(weights) == count
        and all(map(is_weight, weights))
    ):
        raise ConfigError(
            f'{where}: expected {count} finite numbers >= 0, got {short_repr(weights)}.'
        )
