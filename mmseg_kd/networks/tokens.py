"""Token sequences of transformers as maps."""

from __future__ import annotations

from torch import Tensor

from mmseg_kd.errors import ShapeError


def grid_of(length: int, image_size: tuple[int, int]) -> tuple[int, int] | None:
    """Height and width of the token grid that an image has at some whole-number stride.

    Strides are tried from 1 up; an image whose size is no multiple of the stride may have
    been padded (rounded up) or cut (rounded down).
    """
    height, width = image_size
    for stride in range(1, max(height, width) + 1):
        up = (-(-height // stride), -(-width // stride))
        down = (height // stride, width // stride)
        for h, w in (up, down):
            if h * w == length:
                return h, w
    return None


def as_map(output: Tensor, image_size: tuple[int, int], layer: str) -> Tensor:
    """A layer's output as (N, C, h, w).

    Args:
        output: A map (N, C, h, w), which stays as it is, or tokens (N, L, C).
        image_size: Height and width of the image that went in.
        layer: The layer's name, for messages.

    Raises:
        ShapeError: The output is neither.
    """
    if output.ndim == 4:
        return output
    if output.ndim != 3:
        raise ShapeError(
            f'layer {layer!r} puts out {tuple(output.shape)}; expected a map (N, C, h, w) or '
            'tokens (N, L, C).'
        )
    n, length, channels = output.shape
    grid = grid_of(length, image_size)
    if grid is None:
        raise ShapeError(
            f'layer {layer!r} puts out {length} tokens, which no stride gives for an image of '
            f'{image_size[0]}x{image_size[1]}; tap a layer that has one token per position.'
        )
    return output.transpose(1, 2).reshape(n, channels, *grid)
