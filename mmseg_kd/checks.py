"""What a value may be, in a config or on the command line."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any, TypeGuard, TypeVar

from mmseg_kd.errors import short_repr

T = TypeVar('T')

# What `is_device_name` knows, for messages.
DEVICES = 'auto, cpu, cuda or cuda:N'


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a finite number that a float can hold; True and False are none."""
    is_real = isinstance(value, (int, float)) and not isinstance(value, bool)
    # A whole number of Python may be larger than any float.
    return is_real and abs(value) <= sys.float_info.max


def is_integer(value: Any) -> TypeGuard[int]:
    """Whether a value is a whole number written as one; 2.0 and True are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_name(value: Any) -> TypeGuard[str]:
    """Whether a term or a teacher may have this name: it becomes a part of keys in the log."""
    return isinstance(value, str) and re.fullmatch(r'[A-Za-z0-9_-]+', value) is not None


def is_device_name(value: Any) -> TypeGuard[str]:
    """Whether a value names a device, or leaves it open; whether that is there is not looked at."""
    pattern = r'auto|cpu|cuda(:(0|[1-9]\d*))?'
    return isinstance(value, str) and re.fullmatch(pattern, value, re.ASCII) is not None


def _checked(is_so: bool, name: str, what: str, value: T) -> T:
    if not is_so:
        raise ValueError(f'{name} must be {what}, got {short_repr(value)}.')
    return value


def positive(name: str, value: float) -> float:
    """`value` as it is; a ValueError unless it is a finite number > 0."""
    return _checked(is_number(value) and value > 0, name, 'a finite number > 0', value)


def non_negative(name: str, value: float) -> float:
    """`value` as it is; a ValueError unless it is a finite number >= 0."""
    return _checked(is_number(value) and value >= 0, name, 'a finite number >= 0', value)


def whole_number(name: str, value: int) -> int:
    """`value` as it is; a ValueError unless it is a whole number."""
    return _checked(is_integer(value), name, 'a whole number', value)


def fraction(name: str, value: float) -> float:
    """`value` as it is; a ValueError unless it is a number from 0 to 1."""
    return _checked(is_number(value) and 0 <= value <= 1, name, 'a number from 0 to 1', value)


def at_least_one(name: str, value: int) -> int:
    """`value` as it is; a ValueError unless it is a whole number >= 1."""
    return _checked(is_integer(value) and value >= 1, name, 'a whole number >= 1', value)


def at_least_zero(name: str, value: int) -> int:
    """`value` as it is; a ValueError unless it is a whole number >= 0."""
    return _checked(is_integer(value) and value >= 0, name, 'a whole number >= 0', value)


def true_or_false(name: str, value: bool) -> bool:
    """`value` as it is; a ValueError unless it is True or False."""
    return _checked(isinstance(value, bool), name, 'True or False', value)


def one_of(name: str, value: T, choices: Sequence[T]) -> T:
    """`value` as it is; a ValueError unless it is one of `choices`."""
    return _checked(value in choices, name, f'one of {tuple(choices)}', value)


def check_interval(begin: int, end: int) -> None:
    """A ValueError unless both are whole numbers and 0 <= begin < end."""
    given = f'begin={short_repr(begin)}, end={short_repr(end)}'
    if not (is_integer(begin) and is_integer(end)):
        raise ValueError(f'expected whole numbers, got {given}.')
    if not 0 <= begin < end:
        raise ValueError(f'expected 0 <= begin < end, got {given}.')
