"""The kernels of `triton_divergence`: maps interpolated in the registers of a GPU.

No interpolated value is written to memory: what is held beside the maps is twice the result at the
size it is brought back to, and for the losses of pixels two numbers a pixel.

How the work is cut: neighbouring rows and columns of a map bound cells, and a value of the result
comes from the four corners of the cell it lies in. A lane owns a column of cells. It loads the
corners of a cell once, makes the values inside one after the other, and adds up what these give
to each corner, so that a pass makes every value once. The lower corners' share goes on to the cell
below; the left and the right corners' shares go to two buffers, whose sum is the result. There is
no atomic operation: equal inputs give equal bits.

What it costs, for each value of either map at the size of the result: one exponential and some 8
other instructions; and before it, for the loss of pixels, one more and some 12. Gathered
at each native value from all results around it there would be 4 exponentials, since every result
has four such values.
As matrix products, which are 16 values wide at least and need three of tf32 for the precision of
float32, an interpolation would take some 50 multiplications a side instead of one.
A cross-entropy is half a divergence of pixels: one map's passes, with one-hot labels taken off its
softmax.
In bytes: a pass reads a map, with margins of up to a quarter that caches hold, and writes twice
that. With two maps of 2x150x128x128 in float32 at 512x512 that is 0.2 GB and 0.16 G exponentials,
where one map at that size has 0.3 GB.

Where a map is brought back to another size than its own, its four values are loaded anew for each
result, and these loads are most of the work.

Shapes: N images, C channels, h x w a map's own size, H x W that of the result; in kernels C
channels, R rows and V columns of a block. There x_ptr is the map, dense float32, and y and x are
rows and columns of the result.
"""

# Triton has types of its own for the parameters of kernels.
# mypy: allow-untyped-defs, allow-incomplete-defs

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

try:
    import triton  # type: ignore[import-not-found,import-untyped,unused-ignore]
    import triton.language as tl  # type: ignore[import-not-found,import-untyped,unused-ignore]
except ImportError:
    # Builds of torch for the CPU come without it.
    triton = None

HAS_TRITON = triton is not None

# Where a search for the largest value begins. Not at minus infinity, for its distance to itself is
# NaN.
LEAST: Any = torch.finfo(torch.float32).min
if triton is not None:
    LEAST = tl.constexpr(LEAST)


def _jit(function: Callable[..., Any]) -> Any:
    return function if triton is None else triton.jit(function)


@_jit
def _between(low, high, fraction):
    return low + fraction * (high - low)


@_jit
def _neighbours(index_ptr, sides, position):
    """The two rows, or columns, of a map that those of the result lie between."""
    low = tl.load(index_ptr + position).to(tl.int64)
    high = tl.load(index_ptr + sides + position).to(tl.int64)
    return low, high


@_jit
def _corners(ptr, above, below, left, right):
    """Above left, above right, below left, below right."""
    return (
        tl.load(ptr + above + left),
        tl.load(ptr + above + right),
        tl.load(ptr + below + left),
        tl.load(ptr + below + right),
    )


@_jit
def _value(ptr, above, below, left, right, row_fraction, column_fraction):
    """Interpolated values, from loads of their own."""
    above_left, above_right, below_left, below_right = _corners(ptr, above, below, left, right)
    upper = _between(above_left, above_right, column_fraction)
    lower = _between(below_left, below_right, column_fraction)
    return _between(upper, lower, row_fraction)


@_jit
def pixel_sums(
    x_ptr,
    index_ptr,
    fraction_ptr,
    block_ptr,
    shift_ptr,
    share_ptr,
    label_ptr,
    loss_ptr,
    correct_ptr,
    ignore_index,
    height,
    width,
    channels,
    out_height,
    out_width,
    HAS_LABELS: tl.constexpr,
    R: tl.constexpr,
    V: tl.constexpr,
):
    """The largest value of each pixel, and what an exponential less that one is divided by.

    The latter as a factor. The rows of a block lie in one row of cells: corners are loaded once
    for all of them.

    With labels the shares are the pixels' weights already. Stored are the logarithms of the sums
    of exponentials and, for each block, the sum of its cross-entropy and how many of its pixels
    have their label's value largest.
    """
    sides = out_height + out_width
    blocks_across = tl.cdiv(out_width, V)
    block = tl.program_id(0) // blocks_across
    image = tl.program_id(1).to(tl.int64)
    first_y = tl.load(block_ptr + block)
    last_y = tl.load(block_ptr + block + 1) - 1
    y_R1 = (first_y + tl.arange(0, R))[:, None]
    x_1V = (tl.program_id(0) % blocks_across * V + tl.arange(0, V))[None, :]
    near_x_1V = out_height + tl.minimum(x_1V, out_width - 1)
    above, below = _neighbours(index_ptr, sides, first_y)
    left_1V, right_1V = _neighbours(index_ptr, sides, near_x_1V)
    row_fraction_R1 = tl.load(fraction_ptr + tl.minimum(y_R1, last_y))
    fraction_1V = tl.load(fraction_ptr + near_x_1V)
    plane = tl.cast(height, tl.int64) * width
    x_ptr += image * channels * plane

    largest_RV = tl.full((R, V), LEAST, tl.float32)
    total_RV = tl.zeros((R, V), tl.float32)
    class_RV = tl.zeros((R, V), tl.int32)
    for channel in range(channels):
        x_RV = _value(
            x_ptr, above * width, below * width, left_1V, right_1V, row_fraction_R1, fraction_1V
        )
        distance_RV = x_RV - largest_RV
        power_RV = tl.exp(-tl.abs(distance_RV))
        total_RV = tl.where(distance_RV > 0, total_RV * power_RV + 1.0, total_RV + power_RV)
        if HAS_LABELS:
            class_RV = tl.where(distance_RV > 0, channel, class_RV)
        largest_RV = tl.maximum(largest_RV, x_RV)
        x_ptr += plane

    is_inside_RV = (y_R1 <= last_y) & (x_1V < out_width)
    pixel_RV = (image * out_height + y_R1) * out_width + x_1V
    if HAS_LABELS:
        log_sum_RV = largest_RV + tl.log(total_RV)
        tl.store(shift_ptr + pixel_RV, log_sum_RV, mask=is_inside_RV)
        label_RV = tl.load(label_ptr + pixel_RV, mask=is_inside_RV, other=ignore_index)
        weight_RV = tl.load(share_ptr + pixel_RV, mask=is_inside_RV, other=0.0)
        is_counted_RV = label_RV != ignore_index
        # Counted from the map's end, where the pointer is now.
        offset_RV = (tl.where(is_counted_RV, label_RV, 0) - channels) * plane
        own_RV = _value(
            x_ptr + offset_RV,
            above * width,
            below * width,
            left_1V,
            right_1V,
            row_fraction_R1,
            fraction_1V,
        )
        # Where a pixel is ignored its loss may be anything, NaN times 0 included.
        loss_RV = tl.where(is_counted_RV, (log_sum_RV - own_RV) * weight_RV, 0.0)
        is_correct_RV = is_counted_RV & (class_RV == label_RV)
        program = image * tl.num_programs(0) + tl.program_id(0)
        tl.store(loss_ptr + program, tl.sum(tl.sum(loss_RV, 1), 0))
        tl.store(correct_ptr + program, tl.sum(tl.sum(is_correct_RV.to(tl.int32), 1), 0))
    else:
        tl.store(shift_ptr + pixel_RV, largest_RV, mask=is_inside_RV)
        tl.store(share_ptr + pixel_RV, 1.0 / total_RV, mask=is_inside_RV)


@_jit
def exponentials(
    x_ptr,
    x_index_ptr,
    x_fraction_ptr,
    x_height,
    x_width,
    cell_ptr,
    fraction_ptr,
    height,
    width,
    mask_ptr,
    shift_ptr,
    share_ptr,
    label_ptr,
    left_ptr,
    right_ptr,
    channels,
    out_height,
    out_width,
    OF: tl.constexpr,
    HAS_MASK: tl.constexpr,
    OWN_CELLS: tl.constexpr,
    ROWS: tl.constexpr,
    C: tl.constexpr,
    V: tl.constexpr,
):
    """Exponentials of interpolated values, brought back to the corners of cells.

    In the left buffer is what cells give to their left corners, in the right one what the same
    cells give to their right corners, both (N, C, h, w). `OF` says of what: 'map', of its values
    as they are; 'channels', less a shift for each channel; 'pixels', less a shift for each pixel,
    and times its share; 'labels', as that, with 1 taken off at the pixel's label before, and
    without the pixels whose share is 0. With 'maxima' the left buffer takes the largest value of
    each cell.
    """
    blocks_across = tl.cdiv(width, V)
    first_row = tl.program_id(0) // blocks_across * ROWS
    column_V = tl.program_id(0) % blocks_across * V + tl.arange(0, V)
    # Not `column_V` itself in addresses: where these follow one another a lane would be given
    # several columns, and each of them its loads of fractions.
    left_V = tl.minimum(column_V, width - 1)
    column_ptr_V = cell_ptr + height + 1 + left_V
    right_V = tl.load(column_ptr_V + height + width + 2)
    first_x_V = tl.load(column_ptr_V)
    count_V = tl.where(column_V < width, tl.load(column_ptr_V + 1) - first_x_V, 0)
    most = tl.max(count_V, 0)
    left_1V = left_V.to(tl.int64)[None, :]
    right_1V = right_V.to(tl.int64)[None, :]

    image = tl.program_id(2).to(tl.int64)
    channel_C = tl.program_id(1) * C + tl.arange(0, C)
    channel_C1 = image * channels + tl.minimum(channel_C, channels - 1)[:, None]
    is_inside_CV = (channel_C < channels)[:, None] & (column_V < width)[None, :]
    x_ptr_C1 = x_ptr + channel_C1 * x_height * x_width
    out_CV = channel_C1 * height * width + left_1V
    if OF == 'channels':
        shift_C1 = tl.load(shift_ptr + channel_C1)

    below_left_CV = tl.zeros((C, V), tl.float32)
    below_right_CV = tl.zeros((C, V), tl.float32)
    # From the row before on, which gives the first one its share.
    for row in range(tl.maximum(first_row - 1, 0), tl.minimum(first_row + ROWS, height)):
        above = tl.cast(row, tl.int64) * width
        if OWN_CELLS:
            below = tl.load(cell_ptr + height + width + 2 + row).to(tl.int64) * width
            x_above_left_CV, x_above_right_CV, x_below_left_CV, x_below_right_CV = _corners(
                x_ptr_C1, above, below, left_1V, right_1V
            )
        above_left_CV = below_left_CV
        above_right_CV = below_right_CV
        below_left_CV = tl.zeros((C, V), tl.float32)
        below_right_CV = tl.zeros((C, V), tl.float32)
        largest_CV = tl.full((C, V), -float('inf'), tl.float32)
        for y in range(tl.load(cell_ptr + row), tl.load(cell_ptr + row + 1)):
            row_fraction = tl.load(fraction_ptr + y)
            if OWN_CELLS:
                x_left_CV = _between(x_above_left_CV, x_below_left_CV, row_fraction)
                x_right_CV = _between(x_above_right_CV, x_below_right_CV, row_fraction)
            else:
                sides = out_height + out_width
                x_above, x_below = _neighbours(x_index_ptr, sides, y)
                x_row_fraction = tl.load(x_fraction_ptr + y)
            pixels = (image * out_height + y) * out_width
            left_CV = tl.zeros((C, V), tl.float32)
            right_CV = tl.zeros((C, V), tl.float32)
            for k in range(most):
                x_V = tl.minimum(first_x_V + k, out_width - 1)
                fraction_1V = tl.load(fraction_ptr + out_height + x_V)[None, :]
                if OWN_CELLS:
                    x_CV = _between(x_left_CV, x_right_CV, fraction_1V)
                else:
                    x_left_V, x_right_V = _neighbours(x_index_ptr, sides, out_height + x_V)
                    x_CV = _value(
                        x_ptr_C1,
                        x_above * x_width,
                        x_below * x_width,
                        x_left_V[None, :],
                        x_right_V[None, :],
                        x_row_fraction,
                        tl.load(x_fraction_ptr + out_height + x_V)[None, :],
                    )
                is_taken_V = k < count_V
                if HAS_MASK:
                    is_taken_V &= tl.load(mask_ptr + pixels + x_V) != 0
                if OF == 'maxima':
                    x_CV = tl.where(is_taken_V[None, :], x_CV, -float('inf'))
                    largest_CV = tl.maximum(largest_CV, x_CV)
                else:
                    if OF == 'channels':
                        x_CV -= shift_C1
                    if OF == 'pixels' or OF == 'labels':
                        x_CV -= tl.load(shift_ptr + pixels + x_V)[None, :]
                    power_CV = tl.exp(x_CV)
                    if OF == 'pixels' or OF == 'labels':
                        share_V = tl.load(share_ptr + pixels + x_V)
                        if OF == 'labels':
                            is_taken_V &= share_V != 0
                            label_V = tl.load(label_ptr + pixels + x_V)
                            is_own_CV = channel_C[:, None] == label_V[None, :]
                            power_CV = tl.where(is_own_CV, power_CV - 1.0, power_CV)
                        power_CV *= share_V[None, :]
                    power_CV = tl.where(is_taken_V[None, :], power_CV, 0.0)
                    left_CV += (1.0 - fraction_1V) * power_CV
                    right_CV += fraction_1V * power_CV
            above_left_CV += (1.0 - row_fraction) * left_CV
            above_right_CV += (1.0 - row_fraction) * right_CV
            below_left_CV += row_fraction * left_CV
            below_right_CV += row_fraction * right_CV
        if row >= first_row:
            if OF == 'maxima':
                tl.store(left_ptr + out_CV + above, largest_CV, mask=is_inside_CV)
            else:
                tl.store(left_ptr + out_CV + above, above_left_CV, mask=is_inside_CV)
                tl.store(right_ptr + out_CV + above, above_right_CV, mask=is_inside_CV)
