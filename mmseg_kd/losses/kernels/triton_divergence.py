"""The losses of `piecewise` by Triton's kernels on a GPU: places, launches, gradients.

Shapes: N images, C channels, h x w a map's own size, H x W that of the result, G groups.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from mmseg_kd.losses.kernels import piecewise, triton_kernels
from mmseg_kd.losses.kernels.at_size import AtSize
from mmseg_kd.losses.kernels.backend import Backend, Size
from mmseg_kd.losses.kernels.interpolation import interpolation_matrix

DTYPES = (torch.float16, torch.bfloat16, torch.float32)

# Channels and columns of a block of cells: one warp, of which a lane has one column. More channels
# take more registers, fewer leave less to do for each load of a fraction. More rows mean less of a
# margin, but fewer blocks.
CHANNELS, COLUMNS, ROWS = 4, 32, 8
# Of a block of pixels. It has at most as many rows as a cell has.
PIXEL_COLUMNS, PIXEL_ROWS = 128, 4


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
    (low, fraction, first, following) = (torch.cat(of_sides) for of_sides in zip(y, x, strict=True))
    index = torch.cat([y[3][y[0]], x[3][x[0]]])
    ratio = max(out_size[0] / size[0], 1.0)
    rows = min(most_rows, 2 ** math.ceil(math.log2(ratio)))
    bounds = y[2].tolist()
    blocks = [first_y for begin, end in pairwise(bounds) for first_y in range(begin, end, rows)]
    # Nothing is computed on the device: a copy is there when it returns, and so for every stream.
    return _Places(
        torch.stack([low, index]).int().to(device),
        fraction.float().to(device),
        torch.stack([first, following]).int().to(device),
        torch.tensor([*blocks, out_size[0]], dtype=torch.int32).to(device),
        rows,
    )


class Kernels(Backend):
    """The losses' operations by Triton, for maps brought to `size`."""

    def divided(self, x_NChw: Tensor, tau: float) -> Tensor:
        return x_NChw.new_empty(x_NChw.shape, dtype=torch.float32).copy_(x_NChw).div_(tau)

    def pixel_softmax(self, x_NChw: Tensor, to: Sequence[Size]) -> tuple[Tensor, list[Tensor]]:
        largest_NHW, share_NHW = (x_NChw.new_empty(len(x_NChw), *self.size) for _ in range(2))
        self._pixel_sums(x_NChw, largest_NHW, share_NHW)
        log_sum_NHW = share_NHW.log().neg_().add_(largest_NHW)
        if self.mask_NHW is not None:
            log_sum_NHW.masked_fill_(~self.mask_NHW, 0.0)
        log_sum = log_sum_NHW.sum(dtype=torch.float64)
        del log_sum_NHW
        return log_sum, [
            self._brought_back(x_NChw, size, 'pixels', largest_NHW, share_NHW) for size in to
        ]

    def cross_entropy(
        self,
        score_NChw: Tensor,
        label_NHW: Tensor,
        class_weight_C: Tensor | None,
        ignore_index: int,
        to: Sequence[Size],
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        # Of no influence; without it exponentials of large scores are as exact as of small ones.
        largest_N1hw = score_NChw.amax(1, keepdim=True).float()
        x_NChw = (score_NChw - largest_N1hw).contiguous()
        label_NHW = label_NHW.contiguous()
        is_ignored_NHW = label_NHW == ignore_index
        if class_weight_C is None:
            class_weight_C = x_NChw.new_ones(x_NChw.shape[1])
        # Labels that are no classes stop it here.
        weight_NHW = (
            class_weight_C.gather(0, label_NHW.masked_fill(is_ignored_NHW, 0).flatten())
            .view_as(label_NHW)
            .masked_fill_(is_ignored_NHW, 0.0)
        )
        log_sum_NHW = torch.empty_like(weight_NHW)
        loss_NB, correct_NB = self._pixel_sums(
            x_NChw, log_sum_NHW, weight_NHW, label_NHW, ignore_index
        )
        parts = [
            self._brought_back(x_NChw, size, 'labels', log_sum_NHW, weight_NHW, label_NHW)
            for size in to
        ]
        return loss_NB.sum(dtype=torch.float64), correct_NB.sum(), parts

    def _pixel_sums(
        self,
        x_NChw: Tensor,
        shift_NHW: Tensor,
        share_NHW: Tensor,
        label_NHW: Tensor | None = None,
        ignore_index: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """Fill `shift_NHW` and, without labels, `share_NHW`: see `triton_kernels.pixel_sums`.

        Returns:
            With labels the cross-entropy of each block, and how many of its pixels are right.
        """
        n, c, h, w = x_NChw.shape
        places = self._places_of(x_NChw, (h, w))
        blocks = (len(places.blocks) - 1) * -(-self.size[1] // PIXEL_COLUMNS)
        loss_NB = x_NChw.new_empty(n, blocks)
        correct_NB = torch.empty_like(loss_NB, dtype=torch.int32)
        triton_kernels.pixel_sums[(blocks, n)](
            x_NChw,
            places.index,
            places.fraction,
            places.blocks,
            shift_NHW,
            share_NHW,
            # Pointers that no kernel follows are to the map.
            x_NChw if label_NHW is None else label_NHW,
            loss_NB,
            correct_NB,
            ignore_index,
            h,
            w,
            c,
            *self.size,
            HAS_LABELS=label_NHW is not None,
            R=places.rows,
            V=PIXEL_COLUMNS,
            num_warps=4,
            enable_fp_fusion=True,
        )
        return loss_NB, correct_NB

    def exponentials(
        self, x_NChw: Tensor, to: Sequence[Size], shift_NC: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        if shift_NC is None:
            parts = [self._brought_back(x_NChw, size, 'map') for size in to]
        else:
            shift_NC = shift_NC.contiguous()
            parts = [self._brought_back(x_NChw, size, 'channels', shift_NC) for size in to]
        # Bringing back moves values and keeps their sum, for weights sum to one.
        return parts[0].sum((2, 3), dtype=torch.float64), parts

    def largest(self, x_NChw: Tensor) -> Tensor:
        _, _, h, w = x_NChw.shape
        return self._brought_back(x_NChw, (h, w), 'maxima').amax((2, 3))

    def _brought_back(
        self,
        x_NChw: Tensor,
        size: Size,
        of: str,
        shift: Tensor | None = None,
        share: Tensor | None = None,
        label: Tensor | None = None,
    ) -> Tensor:
        """What `triton_kernels.exponentials` makes of a map, for one of `size`."""
        n, c, h, w = x_NChw.shape
        own, cells = self._places_of(x_NChw, (h, w)), self._places_of(x_NChw, size)
        left_NChw, right_NChw = (x_NChw.new_empty(n, c, *size) for _ in range(2))
        mask = x_NChw if self.mask_NHW is None else self.mask_NHW.contiguous().view(torch.uint8)
        triton_kernels.exponentials[
            (-(-size[0] // ROWS) * -(-size[1] // COLUMNS), -(-c // CHANNELS), n)
        ](
            x_NChw,
            own.index,
            own.fraction,
            h,
            w,
            cells.cells,
            cells.fraction,
            *size,
            mask,
            x_NChw if shift is None else shift,
            x_NChw if share is None else share,
            x_NChw if label is None else label,
            left_NChw,
            right_NChw,
            c,
            *self.size,
            OF=of,
            HAS_MASK=self.mask_NHW is not None,
            OWN_CELLS=(h, w) == size,
            ROWS=ROWS,
            C=CHANNELS,
            V=COLUMNS,
            num_warps=1,
            enable_fp_fusion=True,
        )
        if of != 'maxima':
            left_NChw[..., 1:] += right_NChw[..., :-1]
        return left_NChw

    def _places_of(self, x_NChw: Tensor, size: Size) -> _Places:
        return _places(size, self.size, self.align_corners, x_NChw.device, PIXEL_ROWS)


def _try_out(
    pixel_loss: Any, group_loss: Any, cross_entropy_sums: Any, device: torch.device
) -> list[Tensor]:
    """Values and gradients of the losses on small maps, on the CPU."""
    generator = torch.Generator().manual_seed(0)
    size = (13, 17)
    found = []
    # Whatever mode the first call of a loss is in: the answer is for all of them.
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
    ):
        student, teacher = (
            torch.randn(1, 3, 5, 7, generator=generator).to(device) for _ in range(2)
        )
        mask = (torch.rand(1, *size, generator=generator) > 0.3).to(device)
        label = torch.randint(3, mask.shape, generator=generator).to(device)
        student.requires_grad_()
        entropy, correct = cross_entropy_sums(
            student, label.where(mask, 255), teacher[0, :, 0, 0].abs(), 255
        )
        for loss in (
            pixel_loss(student, teacher, size=size, tau=2.0, mask_NHW=mask),
            group_loss(student, teacher, size=size, group_size=2, tau=2.0, mask_NHW=mask),
            # By pixel, as the others: one tolerance is for all.
            entropy / label.numel(),
        ):
            found += [loss.detach().cpu(), torch.autograd.grad(loss, student)[0].cpu()]
        found.append(correct.cpu())
    return found


@cache
def _is_right(device: torch.device) -> bool:
    """Whether a GPU runs the kernels and they give there what `piecewise` gives; warns if not."""
    # On the CPU, where no setting for a GPU's matrix products is in the way.
    cpu = torch.device('cpu')
    expected = _try_out(
        piecewise.pixel_divergence, piecewise.group_divergence, piecewise.cross_entropy_sums, cpu
    )
    try:
        found = _try_out(pixel_divergence, group_divergence, cross_entropy_sums, device)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
        return True
    # What can be missing is Triton's affair: a C compiler, a driver that is new enough.
    except Exception as error:
        warnings.warn(
            f"Triton's kernels for the losses do not work on {device}: {error}. "
            'Plain operations are taken there, which are slower.',
            stacklevel=3,
        )
        return False


def can_take(*maps_NChw: Tensor) -> bool:
    """Whether the kernels run on these maps, which depends on device, dtypes and installation.

    The first call for a device builds the kernels and compares them with `piecewise` on a small
    map, and warns where that fails.
    """
    device = maps_NChw[0].device
    return (
        triton_kernels.HAS_TRITON
        and maps_NChw[0].is_cuda
        and all(x_NChw.device == device and x_NChw.dtype in DTYPES for x_NChw in maps_NChw)
        # Older GPUs have no bfloat16.
        and torch.cuda.get_device_capability(device) >= (8, 0)
        and _is_right(device)
    )


# In float32; the maps' sizes, strides and dtypes may differ. See `can_take` for what they must be.
_losses = AtSize(Kernels)
pixel_divergence = _losses.pixel_divergence
group_divergence = _losses.group_divergence
cross_entropy_sums = _losses.cross_entropy_sums
