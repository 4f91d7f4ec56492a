"""The arg max over a GPU's scores, scaled in registers as torch scales them, to the last bit.

torch's kernel for bilinear scaling is compiled with contracted products. These are written out here
in the same order, and the first call for a device compares the bits of both.

Shapes: C classes, h x w the size that the head gives its scores in, P pixels of a block.
"""

# Triton has types of its own for the parameters of kernels.
# mypy: allow-untyped-defs, allow-incomplete-defs

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from mmseg_kd.evaluation.scaling import Scaling

try:
    import triton  # type: ignore[import-not-found,import-untyped,unused-ignore]
    import triton.language as tl  # type: ignore[import-not-found,import-untyped,unused-ignore]
except ImportError:
    # Builds of torch for the CPU come without it.
    triton = None

BLOCK = 128
# Numbers that all kernels count in 32 bits.
MOST = 2**31 - 1


def _jit(function: Callable[..., Any], **options: Any) -> Any:
    return function if triton is None else triton.jit(function, **options)


def can_take(scores_1Chw: Tensor, scaling: Scaling) -> bool:
    """Whether the kernel gives what torch's scaling gives.

    The first call for a device builds the kernel and compares both, and warns where they differ.
    """
    return (
        triton is not None
        and scores_1Chw.is_cuda
        and scores_1Chw.dtype == torch.float32
        and scores_1Chw.is_contiguous()
        # To the same size torch copies. Its deterministic algorithm is another one.
        and scaling.size != scaling.input_size
        and not torch.are_deterministic_algorithms_enabled()
        and max(scores_1Chw.numel(), math.prod(scaling.original_size)) <= MOST
        and _gives_the_same_bits(
            scores_1Chw.device, scaling.align_corners, scaling.cut_size != scaling.original_size
        )
    )


def arg_max(scores_1Chw: Tensor, scaling: Scaling) -> tuple[Tensor, Tensor]:
    """The class with the highest scaled score at each pixel; of equal ones the first.

    NaN is above all, as for torch's `argmax`.

    Args:
        scores_1Chw: Dense float32.
        scaling: Whose first step changes the size.

    Returns:
        Classes (H, W), int64, and their scaled scores (H, W), float32.
    """
    _, classes, height, width = scores_1Chw.shape
    label_HW = scores_1Chw.new_empty(scaling.original_size, dtype=torch.int64)
    best_HW = scores_1Chw.new_empty(scaling.original_size)
    left, _, top, _ = scaling.padding
    cut_size, corners = scaling.cut_size, scaling.align_corners
    is_upside_down, is_mirrored = scaling.flip == 'vertical', scaling.flip == 'horizontal'
    # Triton launches on the current device, wherever the tensors are.
    with torch.cuda.device_of(scores_1Chw):
        _arg_max[(triton.cdiv(label_HW.numel(), BLOCK),)](
            scores_1Chw,
            label_HW,
            best_HW,
            classes,
            height,
            width,
            top + (cut_size[0] - 1 if is_upside_down else 0),
            left + (cut_size[1] - 1 if is_mirrored else 0),
            -1 if is_upside_down else 1,
            -1 if is_mirrored else 1,
            *cut_size,
            *scaling.original_size,
            *_scales((height, width), scaling.input_size, corners),
            *_scales(cut_size, scaling.original_size, corners),
            ALIGN_CORNERS=corners,
            TWICE=cut_size != scaling.original_size,
            P=BLOCK,
            num_warps=BLOCK // 32,
        )
    return label_HW, best_HW


def _scales(
    size: tuple[int, int], out_size: tuple[int, int], align_corners: bool
) -> tuple[float, float]:
    """Rows and columns of a map for each of the result's, rounded to float32 as torch does."""
    return _scale(size[0], out_size[0], align_corners), _scale(size[1], out_size[1], align_corners)


def _scale(side: int, out_side: int, align_corners: bool) -> float:
    if not align_corners:
        # Of two numbers that float32 holds, the quotient in float64 rounds to that in float32.
        return side / out_side
    return (side - 1) / (out_side - 1) if out_side > 1 else 0.0


@cache
def _gives_the_same_bits(device: torch.device, align_corners: bool, is_twice: bool) -> bool:
    """Whether kernel and torch scale some noise to the same bits on this device."""
    generator = torch.Generator().manual_seed(0)
    scores_1Chw = torch.randn(1, 3, 37, 41, generator=generator).to(device)
    input_size = (149, 163)
    original_size = (211, 190) if is_twice else input_size
    scaling = Scaling((37, 41), input_size, (0, 0, 0, 0), None, original_size, align_corners)
    try:
        label_HW, best_HW = arg_max(scores_1Chw, scaling)
        expected = scaling(scores_1Chw)[0].max(0)
        is_same = torch.equal(label_HW, expected.indices) and torch.equal(best_HW, expected.values)
        reason = "its scores are not torch's to the last bit"
    except Exception as error:  # whatever a compiler or a driver raises
        is_same, reason = False, f'{type(error).__name__}: {error}'
    if not is_same:
        warnings.warn(
            f'Predictions are made by plain operations: the Triton kernel for them does not serve '
            f'on {device} ({reason}).',
            stacklevel=2,
        )
    return is_same


@_jit
def _source(position, scale, side, ALIGN_CORNERS: tl.constexpr):
    """The two rows, or columns, of a map that one of the result lies between, and how far."""
    position = position.to(tl.float32)
    source = position * scale if ALIGN_CORNERS else tl.fma(position + 0.5, scale, -0.5)
    # Nor may the product be contracted with the difference below.
    source = tl.maximum(source, 0.0)
    low = source.to(tl.int32)
    return low, tl.minimum(low + 1, side - 1), source - low.to(tl.float32)


@_jit
def _between(low, high, fraction):
    return tl.fma(1.0 - fraction, low, fraction * high)


@_jit
def _value(ptr, above, below, left, right, row_fraction, column_fraction):
    upper = _between(tl.load(ptr + above + left), tl.load(ptr + above + right), column_fraction)
    lower = _between(tl.load(ptr + below + left), tl.load(ptr + below + right), column_fraction)
    return _between(upper, lower, row_fraction)


# One kernel for images of all sizes: no count is compiled in.
@partial(
    _jit,
    do_not_specialize=[
        'classes',
        'height',
        'width',
        'first_row',
        'first_column',
        'row_step',
        'column_step',
        'cut_height',
        'cut_width',
        'out_height',
        'out_width',
    ],
)
def _arg_max(
    scores_ptr,
    label_ptr,
    best_ptr,
    classes,
    height,
    width,
    first_row,
    first_column,
    row_step,
    column_step,
    cut_height,
    cut_width,
    out_height,
    out_width,
    row_scale,
    column_scale,
    out_row_scale,
    out_column_scale,
    ALIGN_CORNERS: tl.constexpr,
    TWICE: tl.constexpr,
    P: tl.constexpr,
):
    position_P = tl.program_id(0) * P + tl.arange(0, P)
    is_inside_P = position_P < out_height * out_width
    position_P = tl.minimum(position_P, out_height * out_width - 1)
    y_P, x_P = position_P // out_width, position_P % out_width
    if TWICE:
        y_P, next_y_P, out_row_fraction_P = _source(y_P, out_row_scale, cut_height, ALIGN_CORNERS)
        x_P, next_x_P, out_column_fraction_P = _source(
            x_P, out_column_scale, cut_width, ALIGN_CORNERS
        )
        next_y_P = first_row + row_step * next_y_P
        next_x_P = first_column + column_step * next_x_P
        next_above_P, next_below_P, next_row_fraction_P = _source(
            next_y_P, row_scale, height, ALIGN_CORNERS
        )
        next_left_P, next_right_P, next_column_fraction_P = _source(
            next_x_P, column_scale, width, ALIGN_CORNERS
        )
        next_above_P, next_below_P = next_above_P * width, next_below_P * width
    # Of the network's input, for what was cut out of it and flipped.
    y_P = first_row + row_step * y_P
    x_P = first_column + column_step * x_P
    above_P, below_P, row_fraction_P = _source(y_P, row_scale, height, ALIGN_CORNERS)
    left_P, right_P, column_fraction_P = _source(x_P, column_scale, width, ALIGN_CORNERS)
    above_P, below_P = above_P * width, below_P * width

    best_P = tl.full((P,), float('-inf'), tl.float32)
    label_P = tl.zeros((P,), tl.int32)
    for one in range(classes):
        value_P = _value(
            scores_ptr, above_P, below_P, left_P, right_P, row_fraction_P, column_fraction_P
        )
        if TWICE:
            right_value_P = _value(
                scores_ptr,
                above_P,
                below_P,
                next_left_P,
                next_right_P,
                row_fraction_P,
                next_column_fraction_P,
            )
            lower_value_P = _value(
                scores_ptr,
                next_above_P,
                next_below_P,
                left_P,
                right_P,
                next_row_fraction_P,
                column_fraction_P,
            )
            lower_right_value_P = _value(
                scores_ptr,
                next_above_P,
                next_below_P,
                next_left_P,
                next_right_P,
                next_row_fraction_P,
                next_column_fraction_P,
            )
            value_P = _between(
                _between(value_P, right_value_P, out_column_fraction_P),
                _between(lower_value_P, lower_right_value_P, out_column_fraction_P),
                out_row_fraction_P,
            )
        is_better_P = (value_P > best_P) | ((value_P != value_P) & (best_P == best_P))
        best_P = tl.where(is_better_P, value_P, best_P)
        label_P = tl.where(is_better_P, one, label_P)
        scores_ptr += height * width
    tl.store(label_ptr + tl.program_id(0) * P + tl.arange(0, P), label_P.to(tl.int64), is_inside_P)
    tl.store(best_ptr + tl.program_id(0) * P + tl.arange(0, P), best_P, is_inside_P)
