"""What a sweep tries: values of options, from lists and ranges."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config

from mmseg_kd.checks import is_integer, is_number
from mmseg_kd.config.load import runner_keys
from mmseg_kd.errors import ConfigError, Problems, nearest, short_repr

_KEYS = ('low', 'high', 'log', 'step')


@dataclass(frozen=True)
class Range:
    """All numbers between two, which are among them; whole ones where both are whole.

    Attributes:
        low, high: Its ends.
        log: Whether values are spread evenly by their logarithm.
        step: Only low, low + step and so on; None: all.
    """

    low: float
    high: float
    log: bool
    step: float | None

    @property
    def is_whole(self) -> bool:
        """Whether its values are whole numbers."""
        return is_integer(self.low) and is_integer(self.high)


# What may be tried of each option, by its dotted name.
Space = Mapping[str, Sequence[Any] | Range]


def read_space(given: Any, where: str) -> Space:
    """A search space as a plan has it: a list of values, or dict(low=, high=), by option.

    Args:
        given: From the plan.
        where: What messages call it.

    Raises:
        ConfigError: It is none; `ManyErrors` where more than one thing is wrong with it.
    """
    if not isinstance(given, Mapping) or not given:
        raise ConfigError(
            f'{where}: expected values by dotted option, such as '
            f"{{'model.distillation.0.weight': [1.0, 3.0]}}, got {short_repr(given)}."
        )
    problems = Problems()
    space: dict[str, Sequence[Any] | Range] = {}
    for name, values in given.items():
        with problems:
            if isinstance(values, Mapping):
                space[name] = _read_range(values, f'{where}: {name}')
            elif isinstance(values, list | tuple) and values:
                space[name] = values
            else:
                raise ConfigError(
                    f'{where}: {name}: expected a list of values or dict(low=, high=), got '
                    f'{short_repr(values)}.'
                )
    problems.raise_if_any()
    return space


def _read_range(given: Mapping[str, Any], where: str) -> Range:
    problems = Problems()
    problems.add_unknown_keys(given, _KEYS, where)
    problems.raise_if_any()
    low, high, log, step = (given.get(key) for key in _KEYS)
    if not (is_number(low) and is_number(high) and low < high):
        raise ConfigError(
            f'{where}: expected two numbers, low < high, got low={low!r} and high={high!r}.'
        )
    if log not in (None, True, False) or (log and (low <= 0 or step is not None)):
        raise ConfigError(
            f'{where}: expected log=True with low > 0 and without step, or log=False; got '
            f'{short_repr(dict(given))}.'
        )
    found = Range(low, high, bool(log), step)
    is_fit = is_integer(step) if found.is_whole else is_number(step)
    if step is not None and not (is_fit and 0 < step <= high - low):
        kind = 'a whole number' if found.is_whole else 'a number'
        raise ConfigError(
            f'{where}: expected step to be {kind} > 0 within the range, got {step!r}.'
        )
    return found


def grid(space: Space) -> list[dict[str, Any]] | None:
    """All combinations of the values; None where an option has a range."""
    lists = [values for values in space.values() if not isinstance(values, Range)]
    if len(lists) < len(space):
        return None
    return [dict(zip(space, one, strict=True)) for one in itertools.product(*lists)]


def one_by_one(space: Space) -> Iterator[tuple[str, Any]]:
    """Each option with each of its values, or with both ends of its range."""
    for name, values in space.items():
        ends = (values.low, values.high) if isinstance(values, Range) else values
        for value in ends:
            yield name, value


def check_places(space: Space, cfg: Config, where: str) -> None:
    """See that options lead somewhere in a config; below its top their last word may be new.

    Raises:
        ConfigError: One does not; `ManyErrors` where more do not.
    """
    problems = Problems()
    for name in space:
        # A variable of a config's own would change nothing.
        node: Any = {key: cfg.get(key) for key in runner_keys()}
        parts = str(name).split('.')
        for index, part in enumerate(parts):
            if isinstance(node, list):
                node = {str(number): one for number, one in enumerate(node)}
            if not isinstance(node, Mapping) or (part not in node and 0 < index == len(parts) - 1):
                break  # what is wrong then, building finds
            if part not in node:
                place = '.'.join(parts[:index]) or 'the config'
                error = f'{where}: {name}: {place} has no {part!r}; {nearest(part, node)}.'
                problems.add(ConfigError(error))
                break
            node = node[part]
    problems.raise_if_any()
