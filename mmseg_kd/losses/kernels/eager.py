"""What `torch.compile` leaves as it is."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec('P')
R = TypeVar('R')


def eager(function: Callable[P, R]) -> Callable[P, R]:
    """Run `function` as it is inside of what the user compiles.

    A divergence is a loop over pieces, or kernels already: compiling it takes many seconds and
    makes it no faster. `torch.compiler.disable` as a decorator would make the import of a loss
    twice as long.
    """

    @wraps(function)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling():
            result: R = torch.compiler.disable(function)(*args, **kwargs)
            return result
        return function(*args, **kwargs)

    return inner
