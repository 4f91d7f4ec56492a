"""Checks of constructor arguments that several losses share."""

from __future__ import annotations

import math


def non_negative(name: str, value: float) -> float:
    """`value` as it is; a ValueError unless it is a finite number >= 0."""
    if not (isinstance(value, (int, float)) and math.isfinite(value) and value >= 0):
        raise ValueError(f'{name} must be a finite number >= 0, got {value!r}.')
    return value


def at_least_one(name: str, value: int) -> int:
    """`value` as it is; a ValueError unless it is a whole number >= 1."""
    if not (isinstance(value, int) and value >= 1):
        raise ValueError(f'{name} must be a whole number >= 1, got {value!r}.')
    return value
