"""The interval of iterations that a schedule changes in."""

from __future__ import annotations


def check_interval(begin: int, end: int) -> tuple[int, int]:
    """`begin` and `end` as they are; a ValueError unless 0 <= begin < end."""
    if not 0 <= begin < end:
        raise ValueError(f'expected 0 <= begin < end, got begin={begin}, end={end}.')
    return begin, end
