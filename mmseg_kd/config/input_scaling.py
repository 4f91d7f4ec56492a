"""The size at which a network sees images."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class InputScaling:
    """What a teacher's images are scaled to.

    Both sides of an image keep their ends, so that the maps of both networks cover one region,
    which padding to a multiple of the patch size would not leave so.

    Attributes:
        size: Height and width; None: those of the student's image.
        scale: A factor of the student's image; goes without `size`.
        divisor: Both sides are then rounded up to a multiple of this.
    """

    size: tuple[int, int] | None = None
    scale: float = 1.0
    divisor: int = 1

    def of(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width for an image of `size` of the student's."""
        height, width = self.size or (round(side * self.scale) for side in size)
        return -(-height // self.divisor) * self.divisor, -(-width // self.divisor) * self.divisor

    def __call__(self, images_NCHW: Tensor) -> Tensor:
        """Images (N, C, H, W) at that size, by bilinear interpolation."""
        height, width = images_NCHW.shape[-2:]
        size = self.of((height, width))
        if size == (height, width):
            return images_NCHW
        return F.interpolate(images_NCHW, size, mode='bilinear', align_corners=False)
