"""The interval of iterations that a schedule changes in."""

from __future__ import annotations

from mmseg_kd.errors import shown
from mmseg_kd.values import is_whole


def check_interval(begin: int, end: int) -> None:
    """A ValueError unless both are whole numbers and 0 <= begin < end."""
    given = f'begin={shown(begin)}, end={shown(end)}'
    if not (is_whole(begin) and is_whole(end)):
        raise ValueError(f'expected whole numbers, got {given}.')
    if not 0 <= begin < end:
        raise ValueError(f'expected 0 <= begin < end, got {given}.')
