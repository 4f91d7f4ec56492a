"""What values over seeds say: a mean with its interval, paired gains, shares of a gap."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean and its confidence interval.

    Attributes:
        mean: Over the seeds.
        low, high: Of the interval; None where a single seed tells nothing of others.
        seeds: How many it is of.
    """

    mean: float
    low: float | None = None
    high: float | None = None
    seeds: int = 1

    @property
    def is_distinguishable(self) -> bool:
        """Whether there is an interval, and it leaves out 0."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high

    def scaled(self, factor: float) -> Estimate:
        """All three times a factor > 0."""
        if self.low is None or self.high is None:
            return Estimate(self.mean * factor)
        return Estimate(self.mean * factor, self.low * factor, self.high * factor, self.seeds)


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of the values and the 95 % interval of Student's t distribution."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Estimate(mean)
    error = statistics.stdev(values) / math.sqrt(len(values))
    reach = float(stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2)) * error
    return Estimate(mean, mean - reach, mean + reach, len(values))


def paired_gain(method: Mapping[int, float], baseline: Mapping[int, float]) -> Estimate | None:
    """What a method is above the baseline, seed by seed; None where they share no seed.

    Pairs of one seed began with the same weights and saw the same images, so that what these do
    to both is no part of the difference.
    """
    differences = [value - baseline[seed] for seed, value in method.items() if seed in baseline]
    return estimate(differences) if differences else None


def share_of_gap(gain: Estimate, baseline: float, teacher: float) -> Estimate | None:
    """The part of the way from the baseline to the teacher that a gain is; None: there is no gap.

    The gap is taken as known: its own uncertainty is not in the interval.
    """
    gap = teacher - baseline
    return gain.scaled(1 / gap) if gap > 0 else None
