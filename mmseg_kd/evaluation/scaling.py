"""How mmseg brings scores to the size of an image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from mmseg.models.utils import resize
from torch import Tensor


@dataclass(frozen=True)
class Scaling:
    """The way of an image's scores to its size as it was.

    Attributes:
        size: Height and width of the scores.
        input_size: Of the network's input, which they are scaled to first.
        padding: Left, right, top and bottom, which are cut off then.
        flip: How the rest is flipped: 'horizontal', 'vertical' or None.
        original_size: Of the image, which it is scaled to at last.
        align_corners: As in torch.nn.functional.interpolate, for both.
    """

    size: tuple[int, int]
    input_size: tuple[int, int]
    padding: tuple[int, int, int, int]
    flip: str | None
    original_size: tuple[int, int]
    align_corners: bool

    @classmethod
    def of(
        cls,
        size: tuple[int, int],
        input_size: tuple[int, int],
        meta: Mapping[str, Any],
        align_corners: bool,
    ) -> Scaling:
        """What `BaseSegmentor.postprocess_result` reads from an image's `meta`."""
        padding = meta.get('img_padding_size', meta.get('padding_size', (0, 0, 0, 0)))
        flip = meta.get('flip_direction') if meta.get('flip') else None
        assert flip in ('horizontal', 'vertical') or not meta.get('flip'), flip
        left, right, top, bottom = padding
        height, width = meta['ori_shape']
        return cls(
            size, input_size, (left, right, top, bottom), flip, (height, width), align_corners
        )

    @property
    def cut_size(self) -> tuple[int, int]:
        """Of the input without its padding."""
        left, right, top, bottom = self.padding
        height, width = self.input_size
        return height - top - bottom, width - left - right

    def __call__(self, maps_NChw: Tensor) -> Tensor:
        """Scale maps (N, C, h, w) to the original size (N, C, H, W)."""
        maps = self._resized(maps_NChw, self.input_size)
        left, _, top, _ = self.padding
        height, width = self.cut_size
        maps = maps[:, :, top : top + height, left : left + width]
        if self.flip is not None:
            maps = maps.flip(dims=(3 if self.flip == 'horizontal' else 2,))
        return self._resized(maps, self.original_size)

    def _resized(self, maps_NCHW: Tensor, size: tuple[int, int]) -> Tensor:
        """mmseg's bilinear scaling, left out where it changes nothing.

        To the same size, a GPU copies. Its deterministic algorithm does not: infinity turns into
        NaN.
        """
        is_copied = not (maps_NCHW.is_cuda and torch.are_deterministic_algorithms_enabled())
        if maps_NCHW.shape[-2:] == size and is_copied:
            return maps_NCHW
        resized: Tensor = resize(
            maps_NCHW, size, mode='bilinear', align_corners=self.align_corners, warning=False
        )
        return resized
