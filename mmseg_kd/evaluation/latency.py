"""How long a network takes for an image."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch


def measure_latency(
    calls: Mapping[str, Callable[[], Any]], rounds: int = 20, warm_up: int = 3
) -> dict[str, float]:
    """The median seconds of each call, by name.

    The calls take turns, so that what else the machine does meets all alike.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    with torch.inference_mode():
        for index in range(warm_up + rounds):
            for name, call in calls.items():
                begun = time.perf_counter()
                call()
                if index >= warm_up:
                    seconds[name].append(time.perf_counter() - begun)
    return {name: statistics.median(values) for name, values in seconds.items()}
