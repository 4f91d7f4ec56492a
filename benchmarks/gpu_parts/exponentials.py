"""A kernel that does nothing but exponentials."""

# Triton has types of its own for the parameters of kernels.
# mypy: allow-untyped-defs, allow-incomplete-defs

from __future__ import annotations

import triton  # type: ignore[import-not-found,import-untyped,unused-ignore]
import triton.language as tl  # type: ignore[import-not-found,import-untyped,unused-ignore]
from torch import Tensor

BLOCK = 1024


@triton.jit
def _kernel(x_ptr, STEPS: tl.constexpr, BLOCK: tl.constexpr):
    places = x_ptr + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(places)
    for _ in range(STEPS):
        x = tl.exp2(-x)
    tl.store(places, x)


def exponentials(x: Tensor, steps: int) -> None:
    """Take 2^-x of every value so many times, in place; `x` has a multiple of `BLOCK` values."""
    assert x.numel() % BLOCK == 0
    _kernel[(x.numel() // BLOCK,)](x, STEPS=steps, BLOCK=BLOCK, num_warps=4)
