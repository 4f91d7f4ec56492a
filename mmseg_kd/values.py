"""What a value in a config may be."""

from __future__ import annotations

import re
import sys
from typing import Any, TypeGuard


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a finite number that a float can hold; True and False are none."""
    is_real = isinstance(value, (int, float)) and not isinstance(value, bool)
    # A whole number of Python may be larger than any float.
    return is_real and abs(value) <= sys.float_info.max


def is_whole(value: Any) -> TypeGuard[int]:
    """Whether a value is a whole number written as one; 2.0 and True are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_name(value: Any) -> TypeGuard[str]:
    """Whether a term or a teacher may have this name: it becomes a part of keys in the log."""
    return isinstance(value, str) and re.fullmatch(r'[A-Za-z0-9_-]+', value) is not None
