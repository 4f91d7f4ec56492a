"""Terms over several teachers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mmseg_kd.checks import is_integer
from mmseg_kd.config.fields import TermFields, is_weight
from mmseg_kd.errors import ConfigError, short_repr


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


def expand_teachers(entry: TermFields, where: str, teachers: Sequence[str]) -> list[TermFields]:
    """An entry of `distillation` over several teachers as entries over one teacher each.

    With `reduction` 'sum', the default, each counts with its entry of `teacher_weights`; with
    'random' they take turns, one drawn in each iteration. With 'mean' the entry stays one, and
    its loss averages the teachers' distributions.

    Args:
        entry: The entry.
        where: The place in the user's config, for messages.
        teachers: Names of the config's teachers, in its order.

    Returns:
        Entries whose `teacher` is a list of names, and whose `schedule` is a list.

    Raises:
        ConfigError: The teachers, the reduction or the weights are not what they must be.
    """
    chosen = choose_teachers(entry.teacher, f'{where}.teacher', teachers)
    reduction, weights, layer = entry.reduction, entry.teacher_weights, entry.teacher_layer
    if len(chosen) < 2 and (reduction is not None or weights is not None):
        key = 'teacher_weights' if reduction is None else 'reduction'
        raise ConfigError(f'{where}.{key} needs several teachers: teacher=[...].')
    if weights is not None:
        _check_weights(weights, reduction, len(chosen), f'{where}.teacher_weights')
    if isinstance(layer, Mapping) and set(layer) != set(chosen):
        raise ConfigError(
            f'{where}.teacher_layer: expected a layer for each of {chosen}, got layers for '
            f'{list(layer)}.'
        )
    schedule = _schedules(entry.schedule)
    if len(chosen) < 2 or reduction == 'mean':
        return [replace(entry, teacher=chosen, schedule=schedule)]
    assert isinstance(entry.weight, int | float)  # one that sets itself has become its share
    entries = []
    for index, name in enumerate(chosen):
        turn = dict(type='RandomTurn', index=index, count=len(chosen))
        entries.append(
            replace(
                entry,
                teacher=[name],
                schedule=[*schedule, turn] if reduction == 'random' else schedule,
                teacher_layer=layer[name] if isinstance(layer, Mapping) else layer,
                name=None if entry.name is None else f'{entry.name}_{name}',
                weight=entry.weight * (1.0 if weights is None else weights[index]),
            )
        )
    return entries


def _schedules(value: Any) -> list[Any]:
    """One schedule's dict, or a list of them, as a list."""
    if value is None or isinstance(value, Mapping):
        return [] if value is None else [value]
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
