"""A file that a student was exported to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from mmseg_kd.export.agreement import Agreement

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ExportedFile:
    """A file, and what was seen of it.

    Attributes:
        path: Where it is.
        agreement: How far what it computes agrees with PyTorch.
        function: A graph as a function from an input to scores or labels; None for weights.
        miou: In percent on the test split; None: not measured.
    """

    path: Path
    agreement: Agreement
    function: Function | None = field(default=None, repr=False)
    miou: float | None = None
