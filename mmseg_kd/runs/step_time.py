"""How long the steps of a run took, as its log tells.

A median is not moved by what else the machine did for a while. It is taken of each quarter, since
steps cost less where the weight of a term is 0.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mmseg_kd.runs.log import RunLog

_PARTS = 4


def _medians(log: RunLog) -> list[float]:
    """Seconds of a step in each part of a run; nothing where none were logged."""
    if 'time' not in log.train:
        return []
    times = log.train['time'].values
    return [float(np.median(part)) for part in np.array_split(times, min(_PARTS, times.size))]


def step_s(log: RunLog) -> float | None:
    """Seconds of a step, the mean over the run; None where none were logged."""
    medians = _medians(log)
    return float(np.mean(medians)) if medians else None


def elapsed_s(
    log: RunLog, iterations: npt.NDArray[np.int64], total: int
) -> npt.NDArray[np.float64] | None:
    """Seconds of steps until each of the iterations; None where none were logged.

    Args:
        log: Of a run.
        iterations: At any places.
        total: How many the run makes.
    """
    medians = _medians(log)
    if not medians:
        return None
    ends = np.linspace(0, total, len(medians) + 1)
    sums = np.cumsum([0.0, *medians]) * total / len(medians)
    return np.interp(iterations, ends, sums)
