"""What distillation asks of a network, whoever made it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@dataclass(frozen=True)
class Preprocessing:
    """What is done to images as they were loaded, before a network sees them.

    Their channels are put into the network's order, and each becomes (raw - mean) / std.

    Attributes:
        mean, std: One value a channel, in the network's order, on the scale of raw images (0 to
            255); or one for all channels.
        swaps_channels: Whether the order of the channels is turned round: mmseg loads BGR, and
            most networks take RGB.
        pad_value: What padding holds, after all this.
    """

    mean: Sequence[float] = (0.0,)
    std: Sequence[float] = (1.0,)
    swaps_channels: bool = False
    pad_value: float = 0.0


@runtime_checkable
class Network(Protocol):
    """A teacher's or a student's network, as distillation sees it.

    `as_network` finds it for a module: mmseg's segmentors have theirs, and any other module is run
    by its `forward`. A module that has these members itself is taken as it is, which is how
    networks from elsewhere plug in.
    """

    @property
    def num_classes(self) -> int | None:
        """How many classes its scores tell apart; None: not known, or it gives no scores."""

    @property
    def preprocessing(self) -> Preprocessing:
        """What its images have gone through."""

    def run(self, images_NCHW: Tensor) -> Any:
        """A forward pass without labels; for most networks it gives scores (N, C, h, w)."""

    def running(self, layers: Collection[str]) -> AbstractContextManager[None]:
        """Inside, `run` goes through `layers` too where a forward pass would leave them out."""

    def is_scores(self, layer: str) -> bool:
        """Whether a layer puts out class scores."""
