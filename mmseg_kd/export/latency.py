"""How long networks take for an image on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mmseg_kd.analysis.markdown import markdown_table


@dataclass(frozen=True)
class Timing:
    """What was measured of a network.

    Attributes:
        name: What the table calls it.
        seconds: Median for a batch of one image.
        parameters: How many.
        size: Bytes of its file, or of its weights where it has no file of its own.
    """

    name: str
    seconds: float
    parameters: int
    size: int


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


def table(timings: Sequence[Timing]) -> str:
    """The timings as a table in Markdown."""
    head = ('network', 'median ms', 'images / s', 'parameters', 'MiB')
    body = [
        (
            one.name,
            f'{one.seconds * 1000:.1f}',
            f'{1 / one.seconds:.1f}',
            f'{one.parameters / 1e6:.2f} M',
            f'{one.size / 2**20:.2f}',
        )
        for one in timings
    ]
    return markdown_table(head, body)
