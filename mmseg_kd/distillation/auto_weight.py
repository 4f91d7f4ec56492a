"""A weight that sets itself, from how long the gradients of a term and of the task are."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mmseg_kd.distillation.gradients import Comparison

# A measurement costs less than a backward pass for the task and one for each term; with so many
# iterations for each of these it stays under 1 % of a run.
ITERATIONS_PER_BACKWARD = 100

# What the newest measurement counts in the average at least: about the last ten are in it.
MOMENTUM = 0.1


class AutoWeight(nn.Module):
    """How many times as long the task's gradient is as a term's, as a slow average.

    The average is that of the logarithm, in which later measurements count more and which one odd
    batch does not move far. It is kept on the host, in float64, and goes into checkpoints with the
    number of iterations seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_ratio = 0.0
        self.measured = 0
        self.seen = 0

    @property
    def ratio(self) -> float:
        """The average; 0 while there is no measurement."""
        return math.exp(self.log_ratio) if self.measured else 0.0

    def is_due(self, interval: int) -> bool:
        """Whether this iteration is one to measure in.

        At the start, where gradients change fastest, these are the iterations 0, 1, 2, 4, 8 and so
        on, until they are `interval` apart.
        """
        is_early = self.seen < interval and self.seen & (self.seen - 1) == 0
        return is_early or self.seen % interval == 0 or not self.measured

    def take(self, found: Comparison) -> None:
        """Take a measurement into the average, unless it says nothing."""
        if not (0 < found.task_norm < math.inf and 0 < found.term_norm < math.inf):
            return
        self.measured += 1
        change = math.log(found.task_norm / found.term_norm) - self.log_ratio
        self.log_ratio += change * max(2 / (self.measured + 1), MOMENTUM)

    def get_extra_state(self) -> Tensor:
        return torch.tensor([self.log_ratio, self.measured, self.seen], dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        self.log_ratio, measured, seen = state.tolist()
        self.measured, self.seen = int(measured), int(seen)
