"""The kernels of `triton_divergence`: maps interpolated in the registers of a GPU.

No interpolated value is written to memory: what is held beside
the maps is twice the gradient at the student's own size, and for the loss of pixels two numbers a
pixel.

How the work is cut: neighbouring rows and columns of the student's map bound cells, and a value of
the result comes from the four corners of the cell it lies in. A lane owns a column of cells. It
loads the corners of a cell once, makes the values inside one after the other, and adds up what
these give to each corner, so that a pass makes every value once. The lower corners' share goes on
to the cell below; the left and the right corners' shares go to two buffers, whose sum is the
gradient. There is no atomic operation: equal inputs give equal bits.

What it costs, for each value of the result, with the teacher's:
- statistics: 2 exponentials and some 25 other instructions;
- gradient: 2 exponentials and some 10 other instructions. Gathered at each native value from all
  results around it there would be 8 exponentials, since every result has four such values.
As matrix products, which are 16 values wide at least and need three of tf32 for the precision of
float32, an interpolation would take some 50 multiplications a side instead of one.
In bytes: both passes read both maps, with margins of up to a quarter that caches hold, and five
times the gradient in float32 is written or read. With two maps of 2x150x128x128 in float32 at
512x512 that is 0.2 GB and 0.3 G exponentials, where one map at that size has 0.3 GB: arithmetic
bounds it, not memory.

Where both maps have one size, so have their cells. Otherwise the teacher's four values are loaded
anew for each result, and these loads are most of the work.

Shapes: N images, C channels, h x w a map's own size, H x W that of the result, G groups; in kernels
C channels, R rows and V columns of a block. There s and t are student and teacher, y and x rows and
columns of the result, and logarithms are to base 2.
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
def _add_exponential(x, largest, total):
    """Take x into `total`, a sum of powers of two relative to the largest exponent.

    Returns the new `largest` and `total`, and what a sum with the same weights needs: whether x
    is the largest now, and 2 to the power of minus its distance to what was the largest. That is
    the weight of the old sum if x is the largest, and of what comes with x otherwise.
    """
    distance = x - largest
    power = tl.exp2(-tl.abs(distance))
    is_larger = distance > 0
    total = tl.where(is_larger, total * power + 1.0, total + power)
    return tl.maximum(largest, x), total, is_larger, power


@_jit
def _add_values(s, t, difference, s_largest, s_total, t_largest, t_total, cross):
    """Take values into both maps' sums, and their difference into that of the teacher's mean."""
    s_largest, s_total, _, _ = _add_exponential(s, s_largest, s_total)
    t_largest, t_total, is_larger, power = _add_exponential(t, t_largest, t_total)
    cross = tl.where(is_larger, cross * power + difference, cross + power * difference)
    return s_largest, s_total, t_largest, t_total, cross


@_jit
def _neighbours(index_ptr, sides, position, stride):
    """Offsets of the two rows, or columns, of a map that those of the result lie between."""
    low = tl.load(index_ptr + position).to(tl.int64) * stride
    high = tl.load(index_ptr + sides + position).to(tl.int64) * stride
    return low, high


@_jit
def _corners(ptr, above, below, left, right):
    """Above left, above right, below left, below right."""
    return (
        tl.load(ptr + above + left).to(tl.float32),
        tl.load(ptr + above + right).to(tl.float32),
        tl.load(ptr + below + left).to(tl.float32),
        tl.load(ptr + below + right).to(tl.float32),
    )


@_jit
def _value(ptr, above, below, left, right, row_fraction, column_fraction):
    """Interpolated values, from loads of their own."""
    above_left, above_right, below_left, below_right = _corners(ptr, above, below, left, right)
    upper = _between(above_left, above_right, column_fraction)
    lower = _between(below_left, below_right, column_fraction)
    return _between(upper, lower, row_fraction)


@_jit
def _value_at(ptr, index_ptr, fraction_ptr, stride_h, stride_w, out_height, out_width, y, x_1V):
    """The values in a row of the result, with their places loaded as well."""
    sides = out_height + out_width
    above, below = _neighbours(index_ptr, sides, y, stride_h)
    left_1V, right_1V = _neighbours(index_ptr, sides, out_height + x_1V, stride_w)
    row_fraction = tl.load(fraction_ptr + y)
    fraction_1V = tl.load(fraction_ptr + out_height + x_1V)
    return _value(ptr, above, below, left_1V, right_1V, row_fraction, fraction_1V)


@_jit
def pixel_statistics(
    s_ptr,
    s_index_ptr,
    s_fraction_ptr,
    s_stride_n,
    s_stride_c,
    s_stride_h,
    s_stride_w,
    t_ptr,
    t_index_ptr,
    t_fraction_ptr,
    t_stride_n,
    t_stride_c,
    t_stride_h,
    t_stride_w,
    mask_ptr,
    block_ptr,
    partial_ptr,
    s_log_sum_ptr,
    t_log_sum_ptr,
    channels,
    out_height,
    out_width,
    scale,
    HAS_MASK: tl.constexpr,
    SAME_SIZE: tl.constexpr,
    R: tl.constexpr,
    V: tl.constexpr,
):
    """Divergences of pixels, summed over a block, and the log-sums of their channels.

    The rows of a block lie in one row of cells: corners are loaded once for all of them. Where a
    pixel is masked the student's log-sum is infinity.
    """
    sides = out_height + out_width
    blocks_across = tl.cdiv(out_width, V)
    block = tl.program_id(0) // blocks_across
    image = tl.program_id(1).to(tl.int64)
    first_y = tl.load(block_ptr + block)
    last_y = tl.load(block_ptr + block + 1) - 1
    y_R1 = (first_y + tl.arange(0, R))[:, None]
    x_1V = (tl.program_id(0) % blocks_across * V + tl.arange(0, V))[None, :]
    near_y_R1 = tl.minimum(y_R1, last_y)
    near_x_1V = out_height + tl.minimum(x_1V, out_width - 1)
    s_above, s_below = _neighbours(s_index_ptr, sides, first_y, s_stride_h)
    s_left_1V, s_right_1V = _neighbours(s_index_ptr, sides, near_x_1V, s_stride_w)
    s_row_fraction_R1 = tl.load(s_fraction_ptr + near_y_R1)
    s_fraction_1V = tl.load(s_fraction_ptr + near_x_1V)
    if SAME_SIZE:
        t_above, t_below = _neighbours(t_index_ptr, sides, first_y, t_stride_h)
    else:
        t_above, t_below = _neighbours(t_index_ptr, sides, near_y_R1, t_stride_h)
    t_left_1V, t_right_1V = _neighbours(t_index_ptr, sides, near_x_1V, t_stride_w)
    t_row_fraction_R1 = tl.load(t_fraction_ptr + near_y_R1)
    t_fraction_1V = tl.load(t_fraction_ptr + near_x_1V)
    s_ptr += image * s_stride_n
    t_ptr += image * t_stride_n

    s_largest_RV = tl.full((R, V), LEAST, tl.float32)
    t_largest_RV = s_largest_RV
    s_total_RV = tl.zeros((R, V), tl.float32)
    t_total_RV = s_total_RV
    cross_RV = s_total_RV
    for _ in range(channels):
        s_RV = scale * _value(
            s_ptr, s_above, s_below, s_left_1V, s_right_1V, s_row_fraction_R1, s_fraction_1V
        )
        t_RV = scale * _value(
            t_ptr, t_above, t_below, t_left_1V, t_right_1V, t_row_fraction_R1, t_fraction_1V
        )
        s_largest_RV, s_total_RV, t_largest_RV, t_total_RV, cross_RV = _add_values(
            s_RV, t_RV, t_RV - s_RV, s_largest_RV, s_total_RV, t_largest_RV, t_total_RV, cross_RV
        )
        s_ptr += s_stride_c
        t_ptr += t_stride_c

    s_log_total_RV = tl.log2(s_total_RV)
    t_log_total_RV = tl.log2(t_total_RV)
    divergence_RV = (
        cross_RV / t_total_RV + (s_largest_RV - t_largest_RV) + (s_log_total_RV - t_log_total_RV)
    )
    s_log_sum_RV = s_largest_RV + s_log_total_RV
    # Infinity is for masked pixels alone; elsewhere it must reach the gradient.
    s_log_sum_RV = tl.where(s_log_sum_RV == float('inf'), float('nan'), s_log_sum_RV)
    is_inside_RV = (y_R1 <= last_y) & (x_1V < out_width)
    is_taken_RV = is_inside_RV
    pixel_RV = (image * out_height + y_R1) * out_width + x_1V
    if HAS_MASK:
        is_taken_RV &= tl.load(mask_ptr + pixel_RV, mask=is_inside_RV, other=0) != 0
        s_log_sum_RV = tl.where(is_taken_RV, s_log_sum_RV, float('inf'))
    divergence_RV = tl.where(is_taken_RV, divergence_RV, 0.0)
    divergence = tl.sum(tl.sum(divergence_RV, 1), 0)
    tl.store(partial_ptr + image * tl.num_programs(0) + tl.program_id(0), divergence)
    tl.store(s_log_sum_ptr + pixel_RV, s_log_sum_RV, mask=is_inside_RV)
    tl.store(t_log_sum_ptr + pixel_RV, t_largest_RV + t_log_total_RV, mask=is_inside_RV)


@_jit
def _cells(cell_ptr, height, width, ROWS: tl.constexpr, V: tl.constexpr):
    """A block's first row and columns, the next columns, and the results between columns.

    The latter as the first one's column, their number, and the largest number in the block.
    """
    blocks_across = tl.cdiv(width, V)
    column_V = tl.program_id(0) % blocks_across * V + tl.arange(0, V)
    # Not `column_V` itself in addresses: where these follow one another a lane would be given
    # several columns, and each of them its loads of fractions.
    left_V = tl.minimum(column_V, width - 1)
    column_ptr_V = cell_ptr + height + 1 + left_V
    right_V = tl.load(column_ptr_V + height + width + 2)
    first_x_V = tl.load(column_ptr_V)
    count_V = tl.where(column_V < width, tl.load(column_ptr_V + 1) - first_x_V, 0)
    first_row = tl.program_id(0) // blocks_across * ROWS
    return first_row, column_V, left_V, right_V, first_x_V, count_V, tl.max(count_V, 0)


@_jit
def group_statistics(
    s_ptr,
    s_index_ptr,
    s_fraction_ptr,
    s_stride_n,
    s_stride_c,
    s_stride_h,
    s_stride_w,
    t_ptr,
    t_index_ptr,
    t_fraction_ptr,
    t_stride_n,
    t_stride_c,
    t_stride_h,
    t_stride_w,
    mask_ptr,
    cell_ptr,
    partial_ptr,
    height,
    width,
    channels,
    out_height,
    out_width,
    scale,
    ROWS: tl.constexpr,
    HAS_MASK: tl.constexpr,
    SAME_SIZE: tl.constexpr,
    C: tl.constexpr,
    V: tl.constexpr,
):
    """For each channel of a block of cells what `add_groups` adds up."""
    first_row, _, left_V, right_V, first_x_V, count_V, most = _cells(
        cell_ptr, height, width, ROWS, V
    )
    image = tl.program_id(2).to(tl.int64)
    channel_C = tl.program_id(1) * C + tl.arange(0, C)
    near_channel_C1 = tl.minimum(channel_C, channels - 1).to(tl.int64)[:, None]
    s_ptr_C1 = s_ptr + image * s_stride_n + near_channel_C1 * s_stride_c
    t_ptr_C1 = t_ptr + image * t_stride_n + near_channel_C1 * t_stride_c
    s_left_1V = left_V.to(tl.int64)[None, :] * s_stride_w
    s_right_1V = right_V.to(tl.int64)[None, :] * s_stride_w
    t_left_1V = left_V.to(tl.int64)[None, :] * t_stride_w
    t_right_1V = right_V.to(tl.int64)[None, :] * t_stride_w

    s_largest_CV = tl.full((C, V), LEAST, tl.float32)
    t_largest_CV = s_largest_CV
    s_total_CV = tl.zeros((C, V), tl.float32)
    t_total_CV = s_total_CV
    cross_CV = s_total_CV
    for row in range(first_row, tl.minimum(first_row + ROWS, height)):
        above = tl.cast(row, tl.int64)
        below = tl.load(cell_ptr + height + width + 2 + row).to(tl.int64)
        s_above_left_CV, s_above_right_CV, s_below_left_CV, s_below_right_CV = _corners(
            s_ptr_C1, above * s_stride_h, below * s_stride_h, s_left_1V, s_right_1V
        )
        if SAME_SIZE:
            t_above_left_CV, t_above_right_CV, t_below_left_CV, t_below_right_CV = _corners(
                t_ptr_C1, above * t_stride_h, below * t_stride_h, t_left_1V, t_right_1V
            )
        for y in range(tl.load(cell_ptr + row), tl.load(cell_ptr + row + 1)):
            row_fraction = tl.load(s_fraction_ptr + y)
            s_left_CV = _between(s_above_left_CV, s_below_left_CV, row_fraction) * scale
            s_right_CV = _between(s_above_right_CV, s_below_right_CV, row_fraction) * scale
            if SAME_SIZE:
                t_left_CV = _between(t_above_left_CV, t_below_left_CV, row_fraction) * scale
                t_right_CV = _between(t_above_right_CV, t_below_right_CV, row_fraction) * scale
            pixels = (image * out_height + y) * out_width
            for k in range(most):
                x_V = tl.minimum(first_x_V + k, out_width - 1)
                fraction_V = tl.load(s_fraction_ptr + out_height + x_V)
                s_CV = _between(s_left_CV, s_right_CV, fraction_V[None, :])
                if SAME_SIZE:
                    t_CV = _between(t_left_CV, t_right_CV, fraction_V[None, :])
                else:
                    t_CV = scale * _value_at(
                        t_ptr_C1,
                        t_index_ptr,
                        t_fraction_ptr,
                        t_stride_h,
                        t_stride_w,
                        out_height,
                        out_width,
                        y,
                        x_V[None, :],
                    )
                is_taken_V = k < count_V
                if HAS_MASK:
                    is_taken_V &= tl.load(mask_ptr + pixels + x_V) != 0
                is_taken_1V = is_taken_V[None, :]
                s_largest_CV, s_total_CV, t_largest_CV, t_total_CV, cross_CV = _add_values(
                    tl.where(is_taken_1V, s_CV, -float('inf')),
                    tl.where(is_taken_1V, t_CV, -float('inf')),
                    tl.where(is_taken_1V, t_CV - s_CV, 0.0),
                    s_largest_CV,
                    s_total_CV,
                    t_largest_CV,
                    t_total_CV,
                    cross_CV,
                )

    s_largest_C = tl.max(s_largest_CV, 1)
    t_largest_C = tl.max(t_largest_CV, 1)
    s_factor_CV = tl.exp2(s_largest_CV - s_largest_C[:, None])
    t_factor_CV = tl.exp2(t_largest_CV - t_largest_C[:, None])
    # (5, N, C, blocks): the partial sums of a group lie side by side.
    partial_ptr_C = (
        partial_ptr + (image * channels + channel_C) * tl.num_programs(0) + tl.program_id(0)
    )
    plane = tl.num_programs(2).to(tl.int64) * channels * tl.num_programs(0)
    is_inside_C = channel_C < channels
    tl.store(partial_ptr_C, s_largest_C, mask=is_inside_C)
    tl.store(partial_ptr_C + plane, tl.sum(s_total_CV * s_factor_CV, 1), mask=is_inside_C)
    tl.store(partial_ptr_C + plane * 2, t_largest_C, mask=is_inside_C)
    tl.store(partial_ptr_C + plane * 3, tl.sum(t_total_CV * t_factor_CV, 1), mask=is_inside_C)
    tl.store(partial_ptr_C + plane * 4, tl.sum(cross_CV * t_factor_CV, 1), mask=is_inside_C)


@_jit
def _largest(ptr, begin, end, V: tl.constexpr):
    largest_V = tl.full((V,), LEAST, tl.float32)
    for first in range(begin, end, V):
        position_V = first + tl.arange(0, V)
        x_V = tl.load(ptr + position_V, mask=position_V < end, other=LEAST)
        largest_V = tl.maximum(largest_V, x_V)
    return tl.max(largest_V, 0).to(tl.float64)


@_jit
def add_groups(
    partial_ptr,
    divergence_ptr,
    s_log_sum_ptr,
    t_log_sum_ptr,
    blocks,
    channels,
    group_size,
    V: tl.constexpr,
):
    """From the partial sums of a group its divergence and the log-sums of both maps.

    In float64: the divergence is a small difference of large numbers.
    """
    group = tl.program_id(0)
    image = tl.program_id(1).to(tl.int64)
    begin = group * group_size * blocks
    end = tl.minimum((group + 1) * group_size, channels) * blocks
    ptr = partial_ptr + image * channels * blocks
    plane = tl.num_programs(1).to(tl.int64) * channels * blocks
    s_largest = _largest(ptr, begin, end, V)
    t_largest = _largest(ptr + plane * 2, begin, end, V)
    s_total_V = tl.zeros((V,), tl.float64)
    t_total_V = tl.zeros((V,), tl.float64)
    cross_V = tl.zeros((V,), tl.float64)
    for first in range(begin, end, V):
        position_V = first + tl.arange(0, V)
        ptr_V = ptr + position_V
        is_inside_V = position_V < end
        s_V = tl.load(ptr_V, mask=is_inside_V, other=LEAST).to(tl.float64)
        t_V = tl.load(ptr_V + plane * 2, mask=is_inside_V, other=LEAST).to(tl.float64)
        t_factor_V = tl.exp2(t_V - t_largest)
        s_total_V += tl.exp2(s_V - s_largest) * tl.load(ptr_V + plane, mask=is_inside_V, other=0.0)
        t_total_V += t_factor_V * tl.load(ptr_V + plane * 3, mask=is_inside_V, other=0.0)
        cross_V += t_factor_V * tl.load(ptr_V + plane * 4, mask=is_inside_V, other=0.0)
    s_total = tl.sum(s_total_V, 0)
    t_total = tl.sum(t_total_V, 0)
    cross = tl.sum(cross_V, 0)
    s_log_sum = s_largest + tl.log2(s_total)
    t_log_sum = t_largest + tl.log2(t_total)
    # Where no pixel took part all three are zero. They are not where infinite logits did.
    is_empty = (s_total == 0) & (t_total == 0) & (cross == 0)
    divergence = tl.where(is_empty, 0.0, cross / t_total + s_log_sum - t_log_sum)
    position = image * tl.num_programs(0) + group
    tl.store(divergence_ptr + position, divergence)
    tl.store(s_log_sum_ptr + position, s_log_sum.to(tl.float32))
    tl.store(t_log_sum_ptr + position, t_log_sum.to(tl.float32))


@_jit
def gradient(
    s_ptr,
    s_index_ptr,
    s_fraction_ptr,
    s_stride_n,
    s_stride_c,
    s_stride_h,
    s_stride_w,
    t_ptr,
    t_index_ptr,
    t_fraction_ptr,
    t_stride_n,
    t_stride_c,
    t_stride_h,
    t_stride_w,
    mask_ptr,
    cell_ptr,
    s_log_sum_ptr,
    t_log_sum_ptr,
    left_ptr,
    right_ptr,
    height,
    width,
    channels,
    group_size,
    out_height,
    out_width,
    scale,
    ROWS: tl.constexpr,
    BY_PIXEL: tl.constexpr,
    HAS_MASK: tl.constexpr,
    SAME_SIZE: tl.constexpr,
    C: tl.constexpr,
    V: tl.constexpr,
):
    """The student's probabilities less the teacher's, brought back to the student's map.

    In the left buffer is what cells give to their left corners, in the right one what the same
    cells give to their right corners, both (N, C, h, w).
    """
    first_row, column_V, left_V, right_V, first_x_V, count_V, most = _cells(
        cell_ptr, height, width, ROWS, V
    )
    image = tl.program_id(2).to(tl.int64)
    channel_C = tl.program_id(1) * C + tl.arange(0, C)
    near_channel_C1 = tl.minimum(channel_C, channels - 1).to(tl.int64)[:, None]
    s_ptr_C1 = s_ptr + image * s_stride_n + near_channel_C1 * s_stride_c
    t_ptr_C1 = t_ptr + image * t_stride_n + near_channel_C1 * t_stride_c
    s_left_1V = left_V.to(tl.int64)[None, :] * s_stride_w
    s_right_1V = right_V.to(tl.int64)[None, :] * s_stride_w
    t_left_1V = left_V.to(tl.int64)[None, :] * t_stride_w
    t_right_1V = right_V.to(tl.int64)[None, :] * t_stride_w
    out_CV = (image * channels + near_channel_C1) * height * width + left_V[None, :]
    is_inside_CV = (channel_C < channels)[:, None] & (column_V < width)[None, :]
    # The weights of an interpolation sum to one: what is taken from two values is taken from all
    # between them.
    if BY_PIXEL:
        s_shift_C1 = 0.0
        t_shift_C1 = 0.0
    else:
        group_C1 = image * tl.cdiv(channels, group_size) + near_channel_C1 // group_size
        s_shift_C1 = tl.load(s_log_sum_ptr + group_C1)
        t_shift_C1 = tl.load(t_log_sum_ptr + group_C1)

    below_left_CV = tl.zeros((C, V), tl.float32)
    below_right_CV = tl.zeros((C, V), tl.float32)
    # From the row before on, which gives the first one its share.
    for row in range(tl.maximum(first_row - 1, 0), tl.minimum(first_row + ROWS, height)):
        above = tl.cast(row, tl.int64)
        below = tl.load(cell_ptr + height + width + 2 + row).to(tl.int64)
        s_above_left_CV, s_above_right_CV, s_below_left_CV, s_below_right_CV = _corners(
            s_ptr_C1, above * s_stride_h, below * s_stride_h, s_left_1V, s_right_1V
        )
        if SAME_SIZE:
            t_above_left_CV, t_above_right_CV, t_below_left_CV, t_below_right_CV = _corners(
                t_ptr_C1, above * t_stride_h, below * t_stride_h, t_left_1V, t_right_1V
            )
        above_left_CV = below_left_CV
        above_right_CV = below_right_CV
        below_left_CV = tl.zeros((C, V), tl.float32)
        below_right_CV = tl.zeros((C, V), tl.float32)
        for y in range(tl.load(cell_ptr + row), tl.load(cell_ptr + row + 1)):
            row_fraction = tl.load(s_fraction_ptr + y)
            s_left_CV = (
                _between(s_above_left_CV, s_below_left_CV, row_fraction) * scale - s_shift_C1
            )
            s_right_CV = (
                _between(s_above_right_CV, s_below_right_CV, row_fraction) * scale - s_shift_C1
            )
            if SAME_SIZE:
                t_left_CV = (
                    _between(t_above_left_CV, t_below_left_CV, row_fraction) * scale - t_shift_C1
                )
                t_right_CV = (
                    _between(t_above_right_CV, t_below_right_CV, row_fraction) * scale - t_shift_C1
                )
            pixels = (image * out_height + y) * out_width
            left_CV = tl.zeros((C, V), tl.float32)
            right_CV = tl.zeros((C, V), tl.float32)
            for k in range(most):
                x_V = tl.minimum(first_x_V + k, out_width - 1)
                fraction_V = tl.load(s_fraction_ptr + out_height + x_V)
                s_CV = _between(s_left_CV, s_right_CV, fraction_V[None, :])
                if SAME_SIZE:
                    t_CV = _between(t_left_CV, t_right_CV, fraction_V[None, :])
                else:
                    t_CV = scale * _value_at(
                        t_ptr_C1,
                        t_index_ptr,
                        t_fraction_ptr,
                        t_stride_h,
                        t_stride_w,
                        out_height,
                        out_width,
                        y,
                        x_V[None, :],
                    )
                    t_CV -= t_shift_C1
                is_taken_V = k < count_V
                if BY_PIXEL:
                    s_log_sum_V = tl.load(s_log_sum_ptr + pixels + x_V)
                    t_log_sum_V = tl.load(t_log_sum_ptr + pixels + x_V)
                    s_CV -= s_log_sum_V[None, :]
                    t_CV -= t_log_sum_V[None, :]
                    if HAS_MASK:
                        is_taken_V &= s_log_sum_V != float('inf')
                elif HAS_MASK:
                    is_taken_V &= tl.load(mask_ptr + pixels + x_V) != 0
                difference_CV = tl.where(is_taken_V[None, :], tl.exp2(s_CV) - tl.exp2(t_CV), 0.0)
                left_CV += (1.0 - fraction_V)[None, :] * difference_CV
                right_CV += fraction_V[None, :] * difference_CV
            above_left_CV += (1.0 - row_fraction) * left_CV
            above_right_CV += (1.0 - row_fraction) * right_CV
            below_left_CV += row_fraction * left_CV
            below_right_CV += row_fraction * right_CV
        if row >= first_row:
            tl.store(left_ptr + out_CV + above * width, above_left_CV, mask=is_inside_CV)
            tl.store(right_ptr + out_CV + above * width, above_right_CV, mask=is_inside_CV)
