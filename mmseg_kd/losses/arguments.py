"""Checks of constructor arguments that several losses share."""

from __future__ import annotations

from mmseg_kd.errors import shown
from mmseg_kd.values import is_number, is_whole


def positive(name: str, value: float) -> float:
    """`value` as it is; a ValueError unless it is a finite number > 0."""
    if not (is_number(value) and value > 0):
        raise ValueError(f'{name} must be a finite number > 0, got {shown(value)}.')
    return value


def non_negative(name: str, value: float) -> float:
    """`value` as it is; a ValueError unless it is a finite number >= 0."""
    if not (is_number(value) and value >= 0):
        raise ValueError(f'{name} must be a finite number >= 0, got {shown(value)}.')
    return value


def at_least_one(name: str, value: int) -> int:
    """`value` as it is; a ValueError unless it is a whole number >= 1."""
    if not (is_whole(value) and value >= 1):
        raise ValueError(f'{name} must be a whole number >= 1, got {shown(value)}.')
    return value


def true_or_false(name: str, value: bool) -> bool:
    """`value` as it is; a ValueError unless it is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f'{name} must be True or False, got {shown(value)}.')
    return value
