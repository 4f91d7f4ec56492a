"""What the losses ask of plain operations and of Triton's kernels alike.

Shapes: N images, C channels, h x w a map's own size, H x W that of the result.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

Size = tuple[int, int]


@dataclass(frozen=True)
class Backend(ABC):
    """The operations at the size of the result, of which no whole map is held.

    Attributes:
        size: Height and width of the result.
        mask_NHW: Only pixels of the mask take part. None: all do.
        align_corners: As in torch.nn.functional.interpolate.
    """

    size: Size
    mask_NHW: Tensor | None
    align_corners: bool

    @abstractmethod
    def divided(self, x_NChw: Tensor, tau: float) -> Tensor:
        """A copy in at least float32, divided by tau, in the layout that the others take."""

    @abstractmethod
    def pixel_softmax(self, x_NChw: Tensor, to: Sequence[Size]) -> tuple[Tensor, list[Tensor]]:
        """The softmax of each interpolated pixel: the log-sums, added up in float64, and the
        probabilities, brought back to maps of the sizes `to`.

        Args:
            x_NChw: A map of which each pixel's largest value is 0.
            to: The sizes.
        """

    @abstractmethod
    def exponentials(
        self, x_NChw: Tensor, to: Sequence[Size], shift_NC: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Exponentials of interpolated values: their sums (N, C) in float64, and the exponentials,
        brought back to maps of the sizes `to`.

        Args:
            x_NChw: A map.
            to: The sizes.
            shift_NC: What is taken off each interpolated value; None: nothing.
        """

    @abstractmethod
    def largest(self, x_NChw: Tensor) -> Tensor:
        """The largest interpolated value of each channel, (N, C)."""

    @abstractmethod
    def cross_entropy(
        self,
        score_NChw: Tensor,
        label_NHW: Tensor,
        class_weight_C: Tensor | None,
        ignore_index: int,
        to: Sequence[Size],
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """The pixels' cross-entropy, added up in float64; how many have their label's score
        largest; and the gradient of the former, brought back to maps of the sizes `to`.
        """
