"""Losses at a size above the maps' own, in pieces that fit the cache.

The plain formulas upsample both maps and hold six to ten copies of them at that size. Here a piece
of a map is interpolated, its exponentials are taken, and these go back to the map's own size before
the next piece is taken. What is held is one piece, and maps of their own sizes, whatever the size
of the result.

Shapes: N images, C channels, h x w a map's own size, H x W that of the result; R rows and V columns
of a piece.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mmseg_kd.losses.functional import at_least_float32
from mmseg_kd.losses.kernels.at_size import AtSize
from mmseg_kd.losses.kernels.backend import Backend, Size
from mmseg_kd.losses.kernels.divergence import FLOOR
from mmseg_kd.losses.kernels.interpolation import TILE, Resizing

# Values of a piece: 2 MiB of float32, so that the three copies needed stay near the cores; on a
# GPU as many as keep it busy.
PIECE_CPU, PIECE_CUDA = 2**19, 2**24

# The fewest columns of a piece: more cost more zeros in the matrix that interpolates them.
COLUMNS = 32


def piece_values(device: torch.device) -> int:
    """How many values a piece has."""
    return PIECE_CUDA if device.type == 'cuda' else PIECE_CPU


def pieces(channels: int, size: Size, values: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of the pieces that a map of `channels` and `size` is cut into."""
    height, width = size
    columns = min(COLUMNS, width)
    rows = max(values // (channels * columns) // TILE, 1) * TILE
    # More where all rows fit.
    columns = max(values // (channels * min(rows, height)), columns)
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            yield (
                slice(top, min(top + rows, height)),
                slice(left, min(left + columns, width)),
            )


# Image, rows and columns.
Place = tuple[int, slice, slice]


class Pieces(Backend):
    """The losses' operations as plain ones, for maps brought to `size` in pieces."""

    def divided(self, x_NChw: Tensor, tau: float) -> Tensor:
        x_NChw = at_least_float32(x_NChw)
        n, c, h, w = x_NChw.shape
        return torch.div(x_NChw, tau, out=x_NChw.new_empty(n, h, c, w).transpose(1, 2))

    def pixel_softmax(self, x_NChw: Tensor, to: Sequence[Size]) -> tuple[Tensor, list[Tensor]]:
        log_sum = x_NChw.new_zeros((), dtype=torch.float64)
        parts = self._zeros(x_NChw, to)
        for place, x_RCV in self._pieces(x_NChw):
            p_RCV = x_RCV.exp()
            sum_R1V = p_RCV.sum(1, keepdim=True)
            log_sum_R1V = sum_R1V.log()
            if not bool((sum_R1V >= FLOOR).all()):
                largest_R1V = x_RCV.amax(1, keepdim=True)
                p_RCV = x_RCV.sub_(largest_R1V).exp_()
                sum_R1V = p_RCV.sum(1, keepdim=True)
                log_sum_R1V = sum_R1V.log() + largest_R1V
            log_sum += self._masked(log_sum_R1V, place).sum(dtype=torch.float64)
            p_RCV /= sum_R1V
            self._bring_back(p_RCV, place, parts)
        return log_sum, list(parts.values())

    def exponentials(
        self, x_NChw: Tensor, to: Sequence[Size], shift_NC: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        parts = self._zeros(x_NChw, to)
        for place, x_RCV in self._pieces(x_NChw):
            if shift_NC is not None:
                x_RCV -= shift_NC[place[0], :, None]
            self._bring_back(x_RCV.exp_(), place, parts)
        # Bringing back moves values and keeps their sum, for weights sum to one. Not all at once
        # in float64, which copies.
        sum_NC = next(iter(parts.values())).sum(3).sum(2, dtype=torch.float64)
        return sum_NC, list(parts.values())

    def largest(self, x_NChw: Tensor) -> Tensor:
        largest_NC = x_NChw.new_full(x_NChw.shape[:2], -torch.inf)
        for place, x_RCV in self._pieces(x_NChw):
            largest_C = self._masked(x_RCV, place, -torch.inf).amax((0, 2))
            torch.maximum(largest_NC[place[0]], largest_C, out=largest_NC[place[0]])
        return largest_NC

    def cross_entropy(
        self,
        score_NChw: Tensor,
        label_NHW: Tensor,
        class_weight_C: Tensor | None,
        ignore_index: int,
        to: Sequence[Size],
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        x_NChw = self.divided(score_NChw, 1.0)
        parts = self._zeros(x_NChw, to)
        total = x_NChw.new_zeros((), dtype=torch.float64)
        correct = torch.zeros((), dtype=torch.long, device=x_NChw.device)
        for place, x_RCV in self._pieces(x_NChw):
            label_R1V = label_NHW[place][:, None]
            is_ignored_R1V = label_R1V == ignore_index
            label_R1V = label_R1V.masked_fill(is_ignored_R1V, 0)
            largest_R1V, class_R1V = x_RCV.max(1, keepdim=True)
            correct += ((class_R1V == label_R1V) & ~is_ignored_R1V).sum()
            x_RCV -= largest_R1V
            own_R1V = x_RCV.gather(1, label_R1V)
            p_RCV = x_RCV.exp_()
            sum_R1V = p_RCV.sum(1, keepdim=True)
            loss_R1V = sum_R1V.log() - own_R1V
            weight_R1V = torch.ones_like(loss_R1V)
            if class_weight_C is not None:
                weight_R1V = class_weight_C[label_R1V]
            weight_R1V.masked_fill_(is_ignored_R1V, 0.0)
            # Where a pixel is ignored its loss may be anything, NaN times 0 included.
            loss_R1V.masked_fill_(is_ignored_R1V, 0.0)
            total += (loss_R1V * weight_R1V).sum(dtype=torch.float64)
            if parts:
                p_RCV *= weight_R1V / sum_R1V
                p_RCV.scatter_add_(1, label_R1V, -weight_R1V)
                p_RCV.masked_fill_(is_ignored_R1V, 0.0)
                self._bring_back(p_RCV, place, parts)
        return total, correct, list(parts.values())

    def _resizing(self, x_NChw: Tensor, size: Sequence[int]) -> Resizing:
        return Resizing((size[0], size[1]), self.size, x_NChw, self.align_corners)

    def _pieces(self, x_NChw: Tensor) -> Iterator[tuple[Place, Tensor]]:
        _, c, *size = x_NChw.shape
        resizing, memory = self._resizing(x_NChw, size), x_NChw.new_empty(0)
        for image, x_Chw in enumerate(x_NChw):
            x_hCw = x_Chw.transpose(0, 1)
            for rows, columns in pieces(c, self.size, piece_values(x_NChw.device)):
                yield (image, rows, columns), resizing.piece(x_hCw, rows, columns, memory)

    def _masked(self, x_RCV: Tensor, place: Place, fill: float = 0.0) -> Tensor:
        """The piece itself, filled where a pixel is not in the mask."""
        if self.mask_NHW is None:
            return x_RCV
        return x_RCV.masked_fill_(~self.mask_NHW[place][:, None], fill)

    def _zeros(self, x_NChw: Tensor, to: Sequence[Size]) -> dict[Resizing, Tensor]:
        """Zeros that pieces are brought back to, in maps of the sizes `to`."""
        n, c, *_ = x_NChw.shape
        return {
            self._resizing(x_NChw, (h, w)): x_NChw.new_zeros(n, h, c, w).transpose(1, 2)
            for h, w in to
        }

    def _bring_back(self, x_RCV: Tensor, place: Place, parts: dict[Resizing, Tensor]) -> None:
        image, rows, columns = place
        self._masked(x_RCV, place)
        for resizing, part_NChw in parts.items():
            resizing.add_transposed(x_RCV, rows, columns, part_NChw[image].transpose(0, 1))


_losses = AtSize(Pieces)
pixel_divergence = _losses.pixel_divergence
group_divergence = _losses.group_divergence
cross_entropy_sums = _losses.cross_entropy_sums
