"""How long networks take for an image on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmseg_kd.runs.markdown import markdown_table


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
