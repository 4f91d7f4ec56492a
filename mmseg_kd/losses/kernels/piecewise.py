"""Divergences at a size above the maps' own, in pieces that fit the cache.

The plain formulas upsample both maps and hold six to ten copies of them at that size. Here a piece
of both is interpolated, its part of the loss and of the gradient is computed, and the gradient goes
back to the map's own size before the next piece is taken. What is held is one piece, and the
gradient at the map's own size, whatever the size of the result.

Shapes: N images, C channels, h x w the maps' own sizes, H x W that of the result; R rows and V
columns of a piece, G groups of K values.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from mmseg_kd.losses.kernels.interpolation import TILE, Resizing, full_precision

# Values of a piece: 2 MiB of float32, so that the three copies needed stay near the cores; on a
# GPU as many as keep it busy.
PIECE_CPU, PIECE_CUDA = 2**19, 2**24

# Rows of a piece where its columns do not fit as a whole.
ROWS = 32


def piece_values(device: torch.device) -> int:
    """How many values a piece has."""
    return PIECE_CUDA if device.type == 'cuda' else PIECE_CPU


def pieces(channels: int, size: tuple[int, int], values: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of the pieces that a map of `channels` and `size` is cut into."""
    height, width = size
    rows = max(values // (channels * width), min(ROWS, height))
    columns = max(values // (channels * rows) // TILE, 1) * TILE
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            yield (
                slice(top, min(top + rows, height)),
                slice(left, min(left + columns, width)),
            )


def to_wCh(x_NChw: Tensor) -> Tensor:
    """The map with its columns first, as `Resizing` takes it."""
    return x_NChw.permute(0, 3, 1, 2).contiguous()


def _resizings(
    student_NChw: Tensor, teacher_NChw: Tensor, size: tuple[int, int], align_corners: bool
) -> tuple[Resizing, Resizing]:
    """From the student's and from the teacher's map to `size`."""
    student, teacher = (
        Resizing((x.shape[2], x.shape[3]), size, x, align_corners)
        for x in (student_NChw, teacher_NChw)
    )
    return student, teacher


class _PixelDivergence(torch.autograd.Function):
    """KL(teacher || student) over the channels of each pixel, mean over the pixels of a mask."""

    @staticmethod
    @full_precision()
    def forward(
        ctx: Any,
        student_NChw: Tensor,
        teacher_NChw: Tensor,
        size: tuple[int, int],
        tau: float,
        mask_NHW: Tensor | None,
        align_corners: bool,
    ) -> Tensor:
        n, c, _, _ = student_NChw.shape
        resize_student, resize_teacher = _resizings(student_NChw, teacher_NChw, size, align_corners)
        student_NwCh, teacher_NwCh = to_wCh(student_NChw / tau), to_wCh(teacher_NChw / tau)
        gradient_NwCh = torch.zeros_like(student_NwCh) if ctx.needs_input_grad[0] else None
        total = student_NChw.new_zeros((), dtype=torch.float64)
        for image in range(n):
            for rows, columns in pieces(c, size, piece_values(student_NChw.device)):
                mask_V1R = None
                if mask_NHW is not None:
                    mask_V1R = mask_NHW[image, rows, columns].T[:, None]
                s_VCR = resize_student.piece(student_NwCh[image], rows, columns)
                t_VCR = resize_teacher.piece(teacher_NwCh[image], rows, columns)
                s_VCR -= s_VCR.amax(1, keepdim=True)
                t_VCR -= t_VCR.amax(1, keepdim=True)
                difference_VCR = t_VCR - s_VCR
                p_student_VCR, p_teacher_VCR = s_VCR.exp_(), t_VCR.exp_()
                sum_student_V1R = p_student_VCR.sum(1, keepdim=True)
                sum_teacher_V1R = p_teacher_VCR.sum(1, keepdim=True)
                p_teacher_VCR /= sum_teacher_V1R
                divergence_V1R = (
                    difference_VCR.mul_(p_teacher_VCR).sum(1, keepdim=True)
                    + sum_student_V1R.log()
                    - sum_teacher_V1R.log()
                )
                if mask_V1R is not None:
                    divergence_V1R.masked_fill_(~mask_V1R, 0.0)
                total += divergence_V1R.sum(dtype=torch.float64)
                if gradient_NwCh is not None:
                    p_student_VCR /= sum_student_V1R
                    p_student_VCR -= p_teacher_VCR
                    if mask_V1R is not None:
                        p_student_VCR.masked_fill_(~mask_V1R, 0.0)
                    resize_student.add_transposed(
                        p_student_VCR, rows, columns, gradient_NwCh[image]
                    )
        count: Any = n * size[0] * size[1]
        if mask_NHW is not None:
            count = mask_NHW.sum().clamp(min=1)
        return _finish(ctx, total, gradient_NwCh, count, tau, student_NChw)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _backward(ctx, grad)


class _Sums:
    """Sums over the exponentials of a map's values, for one softmax over each group of channels.

    They are relative to the largest value seen until now, and rescaled when a larger one comes.

    Args:
        groups: How many groups.
        like: A tensor of the map's dtype and device.
        resize: From the student's map to the size of the result.
        shape: (w, C, h) of the student's map, where the gradient is needed.
    """

    def __init__(
        self, groups: int, like: Tensor, resize: Resizing, shape: torch.Size | None
    ) -> None:
        self.resize = resize
        self.largest_G = like.new_full((groups,), -torch.inf)
        self.sum_G = like.new_zeros(groups, dtype=torch.float64)
        # The exponentials, brought back to the size of the student's map.
        self.transposed_wCh = None if shape is None else like.new_zeros(shape)

    def add(self, x_VCR: Tensor, rows: slice, columns: slice) -> Tensor:
        """Take a piece in, whose values become their exponentials.

        Returns:
            The factor (G) that makes what was summed until now relative to the largest value.
        """
        x_VGK = x_VCR.view(len(x_VCR), len(self.sum_G), -1)
        largest_G = torch.maximum(self.largest_G, x_VGK.amax((0, 2)))
        # Relative to 0 until a value comes that is not masked.
        reference_G = largest_G.masked_fill(largest_G == -torch.inf, 0.0)
        factor_G = (self.largest_G - reference_G).exp()
        self.largest_G = largest_G
        x_VGK.sub_(reference_G[:, None]).exp_()
        self.sum_G.mul_(factor_G).add_(x_VGK.sum((0, 2)))
        if self.transposed_wCh is not None:
            if x_VCR.is_cuda or bool((factor_G != 1).any()):
                _by_group(self.transposed_wCh, len(factor_G)).mul_(factor_G[:, None])
            self.resize.add_transposed(x_VCR, rows, columns, self.transposed_wCh)
        return factor_G

    def log_sum_G(self) -> Tensor:
        return self.largest_G + self.sum_G.log()

    def gradient_wCh(self) -> Tensor:
        """The gradient of `log_sum_G` for the student's map, had it the values that were summed."""
        assert self.transposed_wCh is not None
        sum_G = self.sum_G.masked_fill(self.sum_G == 0, 1.0).to(self.transposed_wCh.dtype)
        _by_group(self.transposed_wCh, len(sum_G)).div_(sum_G[:, None])
        return self.transposed_wCh


def _by_group(x_wCh: Tensor, groups: int) -> Tensor:
    return x_wCh.view(len(x_wCh), groups, -1)


def _batches(channels: int, group_size: int, most: int) -> Iterator[tuple[slice, int]]:
    """Channels of up to `most` groups that are full, each with their number; then of the last."""
    full = channels // group_size
    for first in range(0, full, most):
        last = min(first + most, full)
        yield slice(first * group_size, last * group_size), last - first
    if full * group_size < channels:
        yield slice(full * group_size, channels), 1


class _GroupDivergence(torch.autograd.Function):
    """KL(teacher || student) over all values of a group of channels, mean over the groups."""

    @staticmethod
    @full_precision()
    def forward(
        ctx: Any,
        student_NChw: Tensor,
        teacher_NChw: Tensor,
        size: tuple[int, int],
        group_size: int,
        tau: float,
        mask_NHW: Tensor | None,
        align_corners: bool,
    ) -> Tensor:
        n, c, _, _ = student_NChw.shape
        resize_student, resize_teacher = _resizings(student_NChw, teacher_NChw, size, align_corners)
        student_NwCh, teacher_NwCh = to_wCh(student_NChw / tau), to_wCh(teacher_NChw / tau)
        gradient_NwCh = torch.empty_like(student_NwCh) if ctx.needs_input_grad[0] else None
        values = piece_values(student_NChw.device)
        most = max(values // (group_size * size[0] * size[1]), 1)
        total = student_NChw.new_zeros((), dtype=torch.float64)
        for image in range(n):
            for channels, groups in _batches(c, group_size, most):
                student_wCh = student_NwCh[image, :, channels].contiguous()
                teacher_wCh = teacher_NwCh[image, :, channels].contiguous()
                shape = None if gradient_NwCh is None else student_wCh.shape
                sums_student, sums_teacher = (
                    _Sums(groups, student_wCh, resize_student, shape) for _ in range(2)
                )
                cross_G = torch.zeros_like(sums_student.sum_G)
                for rows, columns in pieces(student_wCh.shape[1], size, values):
                    s_VCR = resize_student.piece(student_wCh, rows, columns)
                    t_VCR = resize_teacher.piece(teacher_wCh, rows, columns)
                    difference_VCR = t_VCR - s_VCR
                    if mask_NHW is not None:
                        hidden_V1R = ~mask_NHW[image, rows, columns].T[:, None]
                        s_VCR.masked_fill_(hidden_V1R, -torch.inf)
                        t_VCR.masked_fill_(hidden_V1R, -torch.inf)
                        difference_VCR.masked_fill_(hidden_V1R, 0.0)
                    sums_student.add(s_VCR, rows, columns)
                    cross_G *= sums_teacher.add(t_VCR, rows, columns)
                    difference_VCR *= t_VCR
                    cross_G += _by_group(difference_VCR, groups).sum((0, 2))
                divergence_G = (
                    cross_G / sums_teacher.sum_G
                    + sums_student.log_sum_G()
                    - sums_teacher.log_sum_G()
                )
                if mask_NHW is not None:
                    divergence_G.masked_fill_(sums_teacher.sum_G == 0, 0.0)
                total += divergence_G.sum()
                if gradient_NwCh is not None:
                    gradient_NwCh[image, :, channels] = (
                        sums_student.gradient_wCh() - sums_teacher.gradient_wCh()
                    )
        count = n * -(-c // group_size)
        return _finish(ctx, total, gradient_NwCh, count, tau, student_NChw)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _backward(ctx, grad)


def _finish(
    ctx: Any,
    total: Tensor,
    gradient_NwCh: Tensor | None,
    count: int | Tensor,
    tau: float,
    student_NChw: Tensor,
) -> Tensor:
    """Save the gradient and return the loss, a sum of divergences divided by `count`."""
    ctx.others = len(ctx.needs_input_grad) - 1
    if gradient_NwCh is not None:
        # One after the other: a count on the device times tau is a float32.
        gradient_NChw = gradient_NwCh.permute(0, 2, 3, 1) / tau / count
        ctx.save_for_backward(gradient_NChw.to(student_NChw.dtype), student_NChw)
    return (total / count).to(student_NChw.dtype)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    gradient_NChw, student_NChw = ctx.saved_tensors
    return (OnceDifferentiable.apply(gradient_NChw * grad, student_NChw), *[None] * ctx.others)


class OnceDifferentiable(torch.autograd.Function):
    """A gradient as it is, which refuses to be differentiated once more."""

    @staticmethod
    def forward(ctx: Any, gradient_NChw: Tensor, student_NChw: Tensor) -> Tensor:
        return gradient_NChw

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        raise RuntimeError(
            'the distillation losses have no second derivative; take the plain formulas of '
            'mmseg_kd.losses.functional for one.'
        )


def pixel_divergence(
    student_NChw: Tensor,
    teacher_NChw: Tensor,
    *,
    size: tuple[int, int],
    tau: float,
    mask_NHW: Tensor | None = None,
    align_corners: bool = False,
) -> Tensor:
    """KL(teacher || student) over the channels of each pixel of the maps brought to `size`.

    The mean over the pixels of the mask; see `functional.pixel_divergence` for the formula.

    Args:
        student_NChw, teacher_NChw: Logits; their sizes may differ.
        size: Height and width that both are brought to by bilinear interpolation.
        tau: Temperature, > 0.
        mask_NHW: Booleans, true where a pixel takes part. None: everywhere.
        align_corners: As in torch.nn.functional.interpolate.
    """
    loss: Tensor = _PixelDivergence.apply(
        student_NChw, teacher_NChw, size, tau, mask_NHW, align_corners
    )
    return loss


def group_divergence(
    student_NChw: Tensor,
    teacher_NChw: Tensor,
    *,
    size: tuple[int, int],
    group_size: int,
    tau: float,
    mask_NHW: Tensor | None = None,
    align_corners: bool = False,
) -> Tensor:
    """KL(teacher || student) over all values of a group of channels of the maps brought to `size`.

    The mean over groups and images; see `functional.group_divergence` for the formula.

    Args:
        student_NChw, teacher_NChw: Logits; their sizes may differ.
        size: Height and width that both are brought to by bilinear interpolation.
        group_size: Channels in a group; the last has those that are left.
        tau: Temperature, > 0.
        mask_NHW: Booleans, true where a pixel takes part. None: everywhere.
        align_corners: As in torch.nn.functional.interpolate.
    """
    loss: Tensor = _GroupDivergence.apply(
        student_NChw, teacher_NChw, size, group_size, tau, mask_NHW, align_corners
    )
    return loss
