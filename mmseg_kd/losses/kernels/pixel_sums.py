"""Sums over pixels of whatever a loss computes of a pixel, at a size above the maps' own.

`divergence` has formulas that need no autograd; this takes any formula. Pieces of all maps are
interpolated, what the loss computes of their pixels is added up, and its gradient is brought back
to the student's own size before the next pieces are made. What is held is one piece with its graph,
whatever the size of the result.

Shapes: N images, C channels, h x w a map's own size, H x W that of the result, K sums; R rows and V
columns of a piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmseg_kd.losses.kernels import piecewise
from mmseg_kd.losses.kernels.backend import Size
from mmseg_kd.losses.kernels.divergence import OnceDifferentiable
from mmseg_kd.losses.kernels.eager import eager
from mmseg_kd.losses.kernels.interpolation import Resizing, full_precision
from mmseg_kd.losses.kernels.piecewise import Place

# Of each pixel, from the student's values (R, C, V), those of each teacher and the labels
# (R, 1, V): tensors (R, k, V), each with a k of its own. A piece is like a map (N, C, ...), so a
# formula over dimension 1 is for both.
Terms = Callable[[Tensor, Sequence[Tensor], Tensor | None], Sequence[Tensor]]

# A piece is the smaller by this than where no graph is held of it.
GRAPH = 4


@dataclass(frozen=True)
class _Pieces:
    """All pieces, one after the other, and what is computed of them."""

    terms: Terms
    size: Size
    mask_NHW: Tensor | None
    label_NHW: Tensor | None

    @full_precision()
    def sums(
        self, maps_NChw: Sequence[Tensor], grad_NK: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The sums of each image, (N, K), and what `grad_NK`, their gradient, gives the student."""
        student_NChw = maps_NChw[0]
        n, c, h, w = student_NChw.shape
        sums: list[Any] = [0.0] * n
        gradient_NhCw = None if grad_NK is None else student_NChw.new_zeros(n, h, c, w)
        for place, maps_RCV, resizing in self._pieces(maps_NChw):
            image, rows, columns = place
            with torch.set_grad_enabled(grad_NK is not None):
                maps_RCV[0].requires_grad_(grad_NK is not None)
                sum_K = self._sum_K(place, maps_RCV)
            sums[image] = sums[image] + sum_K.detach()
            if grad_NK is None or gradient_NhCw is None:
                continue
            (gradient_RCV,) = torch.autograd.grad(sum_K, maps_RCV[0], grad_NK[image])
            if self.mask_NHW is not None:
                # Where a pixel takes no part its loss may be anything, NaN times 0 included.
                gradient_RCV = gradient_RCV.masked_fill(~self.mask_NHW[place][:, None], 0.0)
            resizing.add_transposed(gradient_RCV, rows, columns, gradient_NhCw[image])
        gradient_NChw = None if gradient_NhCw is None else gradient_NhCw.transpose(1, 2)
        return torch.stack(sums), gradient_NChw

    def _pieces(
        self, maps_NChw: Sequence[Tensor]
    ) -> Iterator[tuple[Place, list[Tensor], Resizing]]:
        """Each place, with the pieces of all maps there, and how the student's was made."""
        maps_NhCw = [x_NChw.transpose(1, 2).contiguous() for x_NChw in maps_NChw]
        resizings = [
            Resizing((x_NChw.shape[2], x_NChw.shape[3]), self.size, x_NChw) for x_NChw in maps_NChw
        ]
        n, c, *_ = maps_NChw[0].shape
        values = piecewise.piece_values(maps_NChw[0].device) // GRAPH
        for image in range(n):
            for rows, columns in piecewise.pieces(c, self.size, values):
                maps_RCV = [
                    resizing.piece(x_NhCw[image], rows, columns)
                    for resizing, x_NhCw in zip(resizings, maps_NhCw, strict=True)
                ]
                yield (image, rows, columns), maps_RCV, resizings[0]

    def _sum_K(self, place: Place, maps_RCV: Sequence[Tensor]) -> Tensor:
        label_R1V = None if self.label_NHW is None else self.label_NHW[place][:, None]
        terms_RkV = self.terms(maps_RCV[0], maps_RCV[1:], label_R1V)
        if self.mask_NHW is not None:
            hidden_R1V = ~self.mask_NHW[place][:, None]
            terms_RkV = [term_RkV.masked_fill(hidden_R1V, 0.0) for term_RkV in terms_RkV]
        return torch.cat([term_RkV.sum(2).sum(0, dtype=torch.float64) for term_RkV in terms_RkV])


class _PixelSums(torch.autograd.Function):
    """The sums of each image; one sum with its gradient at once, several computed anew for it."""

    @staticmethod
    def forward(ctx: Any, pieces: _Pieces, is_one: bool, *maps_NChw: Tensor) -> Tensor:
        student_NChw = maps_NChw[0]
        grad_N1 = None
        if is_one and ctx.needs_input_grad[2]:
            grad_N1 = student_NChw.new_ones(len(student_NChw), 1, dtype=torch.float64)
        sums_NK, gradient_NChw = pieces.sums(maps_NChw, grad_N1)
        ctx.pieces = pieces
        ctx.save_for_backward(gradient_NChw, *maps_NChw)
        return sums_NK

    @staticmethod
    def backward(ctx: Any, grad_NK: Tensor) -> tuple[Tensor | None, ...]:
        gradient_NChw, *maps_NChw = ctx.saved_tensors
        if gradient_NChw is not None:
            gradient_NChw = gradient_NChw * grad_NK[..., None, None].to(gradient_NChw.dtype)
        else:
            # The user's autocast may be on where the backward pass is called.
            with torch.autocast(grad_NK.device.type, enabled=False):
                _, gradient_NChw = ctx.pieces.sums(maps_NChw, grad_NK)
        gradient_NChw = OnceDifferentiable.apply(gradient_NChw, maps_NChw[0])
        return None, None, gradient_NChw, *[None] * (len(maps_NChw) - 1)


@eager
def pixel_sums(
    terms: Terms,
    student_NChw: Tensor,
    teachers_NChw: Sequence[Tensor],
    *,
    size: Size,
    mask_NHW: Tensor | None = None,
    label_NHW: Tensor | None = None,
    is_one: bool = False,
) -> Tensor:
    """The sums over each image's pixels of the maps brought to `size`, (N, K) in float64.

    The gradient goes to the student. Of several sums it depends on what becomes of them: `terms` is
    called anew for it, and must give the same.

    Args:
        terms: What is added up: see `Terms`. K is the sum of its k.
        student_NChw, teachers_NChw: Maps of one dtype, of at least float32; sizes may differ.
        size: Height and width that all are brought to by bilinear interpolation.
        mask_NHW: Booleans, true where a pixel takes part. None: everywhere.
        label_NHW: Class indices for `terms`.
        is_one: Whether K is 1, which saves one of two passes.
    """
    pieces = _Pieces(terms, size, mask_NHW, label_NHW)
    sums_NK: Tensor = _PixelSums.apply(pieces, is_one, student_NChw, *teachers_NChw)
    return sums_NK
