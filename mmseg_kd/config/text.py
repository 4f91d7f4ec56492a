"""Config values as Python text."""

from __future__ import annotations

import keyword
from collections.abc import Mapping, Sequence
from typing import Any

from mmseg_kd.errors import ConfigError

WIDTH = 100
_STEP = 4


class Name(str):
    """A variable of the config, in the place of the value that it holds."""


def write(values: Mapping[str, Any]) -> str:
    """Assignments, one for each key; what does not fit a line has one entry a line.

    Raises:
        ConfigError: A value is no dict, list, tuple, string, number, bool or None.
    """
    return ''.join(f'{key} = {_broken(value, len(key) + 3, 0)}\n' for key, value in values.items())


def write_value(value: Any, indent: int) -> str:
    """A value that begins a line and is followed by a comma.

    Args:
        value: As in `write`.
        indent: How far the line is indented; its first line comes without.

    Raises:
        ConfigError: As `write`.
    """
    return _broken(value, indent, indent)


def resolve(value: Any, names: Mapping[str, Any]) -> Any:
    """`value` with what the variables in it hold."""
    if isinstance(value, Name):
        return resolve(names[value], names)
    if isinstance(value, Mapping):
        return {key: resolve(item, names) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(resolve(item, names) for item in value)
    return value


def _broken(value: Any, column: int, indent: int) -> str:
    """A value on one line where it fits, else over several.

    Args:
        column: Where it begins in its line.
        indent: How far that line is indented.
    """
    flat = _flat(value)
    # One column is left for the comma.
    if column + len(flat) < WIDTH or not isinstance(value, Mapping | list | tuple) or not value:
        return flat
    opening, entries, closing = _parts(value)
    inner = indent + _STEP
    lines = [
        f'{" " * inner}{name}{_broken(item, inner + len(name), inner)},\n' for name, item in entries
    ]
    return f'{opening}\n{"".join(lines)}{" " * indent}{closing}'


def _flat(value: Any) -> str:
    if isinstance(value, Name):
        return str(value)
    if isinstance(value, Mapping | list | tuple):
        opening, entries, closing = _parts(value)
        comma = ',' if isinstance(value, tuple) and len(value) == 1 else ''
        inside = ', '.join(name + _flat(item) for name, item in entries)
        return opening + inside + comma + closing
    if isinstance(value, float) and value in (float('inf'), -float('inf')):
        return f"float('{value}')"
    if value is None or isinstance(value, str | bool | int | float):
        return repr(value)
    raise ConfigError(
        'expected dicts, lists, tuples, strings, numbers, bools and None in a config, '
        f'got {value!r}.'
    )


def _parts(value: Any) -> tuple[str, Sequence[tuple[str, Any]], str]:
    """What opens a container, its entries with what stands before each, and what closes it."""
    if isinstance(value, list):
        return '[', [('', item) for item in value], ']'
    if isinstance(value, tuple):
        return '(', [('', item) for item in value], ')'
    if all(isinstance(k, str) and k.isidentifier() and not keyword.iskeyword(k) for k in value):
        return 'dict(', [(f'{key}=', item) for key, item in value.items()], ')'
    return '{', [(f'{key!r}: ', item) for key, item in value.items()], '}'
