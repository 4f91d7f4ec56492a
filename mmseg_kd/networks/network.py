"""What distillation asks of a network, whoever made it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from mmseg_kd.checks import is_integer


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


def channels_of(module: nn.Module, preprocessing: Preprocessing) -> int:
    """How many channels a network's images have: as its mean says, or its first convolution."""
    if len(preprocessing.mean) > 1:
        return len(preprocessing.mean)
    convs = (one for one in module.modules() if isinstance(one, nn.Conv2d))
    return next((one.in_channels for one in convs), 3)


def sizes_of(module: nn.Module) -> list[tuple[int, int]]:
    """Heights and widths that parts of a network say they are made for, such as a ViT's patches."""
    sizes = [getattr(one, 'img_size', None) for one in module.modules()]
    return [size for size in map(as_size, sizes) if size is not None]


def as_size(value: Any) -> tuple[int, int] | None:
    """A height and a width of what may be a side, a pair of sides, or something else (None)."""
    sides = (value, value) if is_integer(value) else value
    if not (isinstance(sides, (tuple, list)) and len(sides) == 2 and all(map(is_integer, sides))):
        return None
    return (sides[0], sides[1]) if min(sides) >= 1 else None


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

    @property
    def channels(self) -> int:
        """How many its images have."""

    @property
    def input_sizes(self) -> Iterable[tuple[int, int]]:
        """Heights and widths of images that it is made for, as far as it says so."""

    def run(self, images_NCHW: Tensor) -> Any:
        """A forward pass without labels; for most networks it gives scores (N, C, h, w)."""

    def running(self, layers: Collection[str]) -> AbstractContextManager[None]:
        """Inside, `run` goes through `layers` too where a forward pass would leave them out."""

    def scored_classes(self, layer: str) -> int | None:
        """How many classes the scores tell apart that a layer puts out; None: it puts out none."""
