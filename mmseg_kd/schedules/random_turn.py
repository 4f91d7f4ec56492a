"""One of several at random."""

from __future__ import annotations

import numpy as np

from mmseg_kd.checks import is_integer
from mmseg_kd.registry import SCHEDULES


@SCHEDULES.register_module()
class RandomTurn:
    """1 in the iterations in which the draw falls on `index`, 0 in the others.

    One of `count` is drawn in each iteration, all with the same chance. The draw depends on the
    iteration and the seed alone: all ranks agree, and a resumed run goes on with the same.

    Args:
        index: From 0 to `count` - 1.
        count: How many take turns, >= 1.
        seed: Terms that take turns with each other have the same.

    Raises:
        ValueError: Not 0 <= index < count, or a negative seed.
    """

    def __init__(self, index: int, count: int, seed: int = 0) -> None:
        if not all(map(is_integer, (index, count, seed))):
            raise ValueError(
                f'expected whole numbers, got index={index!r}, count={count!r}, seed={seed!r}.'
            )
        if not 0 <= index < count:
            raise ValueError(f'expected 0 <= index < count, got index={index}, count={count}.')
        if seed < 0:
            raise ValueError(f'expected a seed >= 0, got {seed!r}.')
        self.index, self.count, self.seed = index, count, seed

    def __call__(self, iteration: int) -> float:
        # A new generator for each iteration: numpy mixes the two numbers into one seed.
        drawn = np.random.default_rng([self.seed, iteration]).integers(self.count)
        return float(drawn == self.index)
