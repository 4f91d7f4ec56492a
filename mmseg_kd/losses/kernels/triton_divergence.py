"""The losses of `piecewise` by Triton's kernels on a GPU: places, launches, gradients.

Shapes: N images, C channels, h x w a map's own size, H x W that of the result, G groups.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from mmseg_kd.losses.kernels import piecewise, triton_kernels
from mmseg_kd.losses.kernels.divergence import OnceDifferentiable
from mmseg_kd.losses.kernels.interpolation import interpolation_matrix

DTYPES = (torch.float16, torch.bfloat16, torch.float32)

# Channels and columns of a block of cells: one warp, of which a lane has one column. More channels
# take more registers, fewer leave less to do for each load of a fraction. More rows mean less of a
# margin, but fewer blocks.
CHANNELS, COLUMNS, ROWS = 4, 32, 8
# Of a block of pixels. It has at most as many rows as a cell has.
PIXEL_COLUMNS, PIXEL_ROWS = 128, 4
# How many partial sums are added at a time.
PARTIALS = 1024


@dataclass(frozen=True)
class _Places:
    """Where the values of a result lie in a map.

    Attributes:
        index: (2, H + W) int32; for each row, then each column, of the result that of the map
            before it and the next.
        fraction: (H + W) float32; how far it is on the way to the next.
        cells: (2, h + 1 + w + 1) int32; for each row, then each column, of the map, and for their
            ends, the first of the result in it and the map's next.
        blocks: int32; the first rows of blocks that lie in one row of cells each, and their end.
        rows: The most rows that a block has.
    """

    index: Tensor
    fraction: Tensor
    cells: Tensor
    blocks: Tensor
    rows: int


def _places_of_side(
    size: int, out_size: int, align_corners: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of each result the position before it and the fraction; of each position first and next."""
    matrix = interpolation_matrix(size, out_size, align_corners)
    low = (matrix != 0).int().argmax(1)
    # Behind the last position both neighbours are that one, and their weights 1 together.
    fraction = 1 - matrix[torch.arange(out_size), low]
    position = torch.arange(size + 1)
    # Without interpolation the next value has no weight, and is not even read: it may be NaN.
    following = position if size == out_size else (position + 1).clamp(max=size - 1)
    return low, fraction, torch.searchsorted(low, position), following


@lru_cache(maxsize=64)
def _places(
    size: tuple[int, int],
    out_size: tuple[int, int],
    align_corners: bool,
    device: torch.device,
    most_rows: int,
) -> _Places:
    """The places for blocks of up to `most_rows` rows, a power of two."""
    y, x = (_places_of_side(*sides, align_corners) for sides in zip(size, out_size, strict=True))
    (low, fraction, first, following) = (
        torch.cat(of_sides).to(device) for of_sides in zip(y, x, strict=True)
    )
    index = torch.cat([y[3][y[0]], x[3][x[0]]]).to(device)
    ratio = max(out_size[0] / size[0], 1.0)
    rows = min(most_rows, 2 ** math.ceil(math.log2(ratio)))
    bounds = y[2].tolist()
    blocks = [first_y for begin, end in pairwise(bounds) for first_y in range(begin, end, rows)]
    return _Places(
        torch.stack([low, index]).int(),
        fraction.float(),
        torch.stack([first, following]).int(),
        torch.tensor([*blocks, out_size[0]], device=device, dtype=torch.int32),
        rows,
    )


class _Problem:
    """What the kernels of one loss have in common, and their launches.

    Args:
        student_NChw, teacher_NChw, size, tau, mask_NHW, align_corners: As in `pixel_divergence`.
    """

    def __init__(
        self,
        student_NChw: Tensor,
        teacher_NChw: Tensor,
        size: tuple[int, int],
        tau: float,
        mask_NHW: Tensor | None,
        align_corners: bool,
    ) -> None:
        n, c, h, w = student_NChw.shape
        assert teacher_NChw.shape[:2] == (n, c)
        assert student_NChw.dtype in DTYPES and teacher_NChw.dtype in DTYPES
        if mask_NHW is not None:
            assert mask_NHW.shape == (n, *size) and mask_NHW.dtype == torch.bool
        self.student_NChw, self.size = student_NChw, size
        self.places, teacher_places = (
            _places((x.shape[2], x.shape[3]), size, align_corners, x.device, PIXEL_ROWS)
            for x in (student_NChw, teacher_NChw)
        )
        # A kernel follows the pointer to the mask where there is one.
        mask = student_NChw if mask_NHW is None else mask_NHW.contiguous().view(torch.uint8)
        self.inputs: list[Any] = []
        for x, places in ((student_NChw, self.places), (teacher_NChw, teacher_places)):
            self.inputs += [x, places.index, places.fraction, *x.stride()]
        self.inputs.append(mask)
        self.scale = math.log2(math.e) / tau
        self.options: dict[str, Any] = {
            'HAS_MASK': mask_NHW is not None,
            'SAME_SIZE': student_NChw.shape == teacher_NChw.shape,
            'enable_fp_fusion': True,
        }
        self.cell_options = self.options | dict(ROWS=ROWS, C=CHANNELS, V=COLUMNS, num_warps=1)
        self.cell_grid = (-(-h // ROWS) * -(-w // COLUMNS), -(-c // CHANNELS), n)

    def pixel_statistics(self) -> tuple[Tensor, Tensor, Tensor]:
        """The sum of the divergences, and the log-sums (N, H, W) of student and teacher."""
        n, c, _, _ = self.student_NChw.shape
        blocks = (len(self.places.blocks) - 1) * -(-self.size[1] // PIXEL_COLUMNS)
        partial = self._empty(n, blocks)
        student_NHW, teacher_NHW = self._empty(n, *self.size), self._empty(n, *self.size)
        triton_kernels.pixel_statistics[(blocks, n)](
            *self.inputs,
            self.places.blocks,
            partial,
            student_NHW,
            teacher_NHW,
            c,
            *self.size,
            self.scale,
            R=self.places.rows,
            V=PIXEL_COLUMNS,
            num_warps=4,
            **self.options,
        )
        return partial.sum(dtype=torch.float64) * math.log(2), student_NHW, teacher_NHW

    def group_statistics(self, group_size: int) -> tuple[Tensor, Tensor, Tensor]:
        """The sum of the divergences, and the log-sums (N, G) of student and teacher."""
        n, c, h, w = self.student_NChw.shape
        groups, blocks = -(-c // group_size), self.cell_grid[0]
        partial = self._empty(5, n, c, blocks)
        triton_kernels.group_statistics[self.cell_grid](
            *self.inputs,
            self.places.cells,
            partial,
            h,
            w,
            c,
            *self.size,
            self.scale,
            **self.cell_options,
        )
        divergence_NG = self._empty(n, groups).double()
        student_NG, teacher_NG = self._empty(n, groups), self._empty(n, groups)
        triton_kernels.add_groups[(groups, n)](
            partial,
            divergence_NG,
            student_NG,
            teacher_NG,
            blocks,
            c,
            group_size,
            V=PARTIALS,
            num_warps=4,
            enable_fp_fusion=True,
        )
        return divergence_NG.sum() * math.log(2), student_NG, teacher_NG

    def gradient(self, student: Tensor, teacher: Tensor, group_size: int | None) -> Tensor:
        """The gradient of the divergences' sum for the student's map divided by tau, in float32.

        Args:
            student, teacher: The log-sums.
            group_size: Channels in a group; None for the loss of pixels.
        """
        _, c, h, w = self.student_NChw.shape
        left_NChw, right_NChw = (self._empty(*self.student_NChw.shape) for _ in range(2))
        triton_kernels.gradient[self.cell_grid](
            *self.inputs,
            self.places.cells,
            student,
            teacher,
            left_NChw,
            right_NChw,
            h,
            w,
            c,
            group_size or 1,
            *self.size,
            self.scale,
            BY_PIXEL=group_size is None,
            **self.cell_options,
        )
        left_NChw[..., 1:] += right_NChw[..., :-1]
        return left_NChw

    def _empty(self, *shape: int) -> Tensor:
        return self.student_NChw.new_empty(shape, dtype=torch.float32)


class _Divergence(torch.autograd.Function):
    """KL(teacher || student) of pixels, or of groups where there is a group size."""

    @staticmethod
    def forward(
        ctx: Any,
        student_NChw: Tensor,
        teacher_NChw: Tensor,
        size: tuple[int, int],
        group_size: int | None,
        tau: float,
        mask_NHW: Tensor | None,
        align_corners: bool,
    ) -> Tensor:
        n, c, _, _ = student_NChw.shape
        count: Any = n * size[0] * size[1]
        if group_size is not None:
            # Numbers in the kernels stay small, however large it is.
            group_size = min(group_size, c)
            count = n * -(-c // group_size)
        elif mask_NHW is not None:
            count = mask_NHW.sum().clamp(min=1)
        problem = _Problem(student_NChw, teacher_NChw, size, tau, mask_NHW, align_corners)
        # Triton launches on the current device, wherever the tensors are.
        with torch.cuda.device_of(student_NChw):
            if group_size is None:
                total, student, teacher = problem.pixel_statistics()
            else:
                total, student, teacher = problem.group_statistics(group_size)
            if ctx.needs_input_grad[0]:
                gradient_NChw = problem.gradient(student, teacher, group_size)
                ctx.save_for_backward(gradient_NChw, student_NChw)
        ctx.divisor = tau * count
        loss: Tensor = (total / count).float()
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gradient_NChw, student_NChw = ctx.saved_tensors
        # In float32 until the factor of a gradient scaler is in: float16 loses small numbers.
        gradient_NChw = (gradient_NChw * (grad / ctx.divisor)).to(student_NChw.dtype)
        return OnceDifferentiable.apply(gradient_NChw, student_NChw), *[None] * 6


def _try_out(pixel_loss: Any, group_loss: Any, device: torch.device) -> list[Tensor]:
    """Values and gradients of two losses on small maps."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(1, 3, 5, 7, generator=generator).to(device) for _ in range(2))
    size = (13, 17)
    mask = (torch.rand(1, *size, generator=generator) > 0.3).to(device)
    found = []
    with torch.enable_grad():
        student.requires_grad_()
        for loss in (
            pixel_loss(student, teacher, size=size, tau=2.0, mask_NHW=mask),
            group_loss(student, teacher, size=size, group_size=2, tau=2.0, mask_NHW=mask),
        ):
            found += [loss.detach(), *torch.autograd.grad(loss, student)]
    return found


@cache
def _is_right(device: torch.device) -> bool:
    """Whether a GPU runs the kernels and they give there what `piecewise` gives; warns if not."""
    expected = _try_out(piecewise.pixel_divergence, piecewise.group_divergence, device)
    try:
        found = _try_out(pixel_divergence, group_divergence, device)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
        return True
    # What can be missing is Triton's affair: a C compiler, a driver that is new enough.
    except Exception as error:
        warnings.warn(
            f"Triton's kernels for the distillation losses do not work on {device}: {error}. "
            'Plain operations are taken there, which are slower.',
            stacklevel=3,
        )
        return False


def can_take(student_NChw: Tensor, teacher_NChw: Tensor) -> bool:
    """Whether the kernels run on these maps, which depends on device, dtypes and installation.

    The first call for a device builds the kernels and compares them with `piecewise` on a small
    map, and warns where that fails.
    """
    return (
        triton_kernels.HAS_TRITON
        and student_NChw.is_cuda
        and student_NChw.device == teacher_NChw.device
        and student_NChw.dtype in DTYPES
        and teacher_NChw.dtype in DTYPES
        # Older GPUs have no bfloat16.
        and torch.cuda.get_device_capability(student_NChw.device) >= (8, 0)
        and _is_right(student_NChw.device)
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

    The mean over the pixels of the mask, in float32; see `functional.pixel_divergence` for the
    formula, and `can_take` for what the maps must be.

    Args:
        student_NChw, teacher_NChw: Logits; their sizes, strides and dtypes may differ.
        size: Height and width that both are brought to by bilinear interpolation.
        tau: Temperature, > 0.
        mask_NHW: Booleans, true where a pixel takes part. None: everywhere.
        align_corners: As in torch.nn.functional.interpolate.
    """
    loss: Tensor = _Divergence.apply(
        student_NChw, teacher_NChw, size, None, tau, mask_NHW, align_corners
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

    The mean over groups and images, in float32; see `functional.group_divergence` for the
    formula, and `can_take` for what the maps must be.

    Args:
        student_NChw, teacher_NChw: Logits; their sizes, strides and dtypes may differ.
        size: Height and width that both are brought to by bilinear interpolation.
        group_size: Channels in a group; the last has those that are left.
        tau: Temperature, > 0.
        mask_NHW: Booleans, true where a pixel takes part. None: everywhere.
        align_corners: As in torch.nn.functional.interpolate.
    """
    loss: Tensor = _Divergence.apply(
        student_NChw, teacher_NChw, size, group_size, tau, mask_NHW, align_corners
    )
    return loss
