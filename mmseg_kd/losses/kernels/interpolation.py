"""Bilinear interpolation of a part of a map, and its transpose, as small matrix products.

A bilinear interpolation is a product with one sparse matrix a side. Cut into tiles of a few rows
it becomes a batch of small dense products, which run at the speed of memory at any ratio, where
the ordinary kernels need some ten times as long. Maps are (h, C, w) here: with the channels in the
middle both sides are matrix products on contiguous memory.

Shapes: h x w the size of a map, H x W that of the pieces' whole, R rows and V columns of a piece.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

# Rows of a tile: the larger it is, the more of its matrix is zeros; the smaller, the more calls.
TILE = 16


@contextmanager
def full_precision() -> Iterator[None]:
    """Matrix products of float32 in float32, where the user has allowed less for speed.

    Ten bits of a score are not enough to interpolate it. Also a decorator.
    """
    backends: list[Any] = [
        getattr(backend, 'matmul', None) for backend in (torch.backends.cuda, torch.backends.mkldnn)
    ]
    # Before PyTorch 2.9 there is but the older setting, for either.
    backends = [backend for backend in backends if hasattr(backend, 'fp32_precision')]
    before = [backend.fp32_precision for backend in backends]
    try:
        old = torch.get_float32_matmul_precision()
    except RuntimeError:
        # It refuses to answer where less is allowed in the newer way alone.
        old = 'highest'
    try:
        # In the way that the user took: while the two disagree PyTorch refuses to read the older.
        if old != 'highest':
            torch.set_float32_matmul_precision('highest')
        for backend in backends:
            if backend.fp32_precision in ('tf32', 'bf16'):
                backend.fp32_precision = 'ieee'
        yield
    finally:
        if old != 'highest':
            torch.set_float32_matmul_precision(old)
        for backend, precision in zip(backends, before, strict=True):
            if backend.fp32_precision != precision:
                backend.fp32_precision = precision


def interpolation_matrix(size: int, out_size: int, align_corners: bool = False) -> Tensor:
    """The matrix (out_size, size) of a linear interpolation, in float64.

    Positions and weights are those of torch.nn.functional.interpolate.
    """
    out = torch.arange(out_size, dtype=torch.float64)
    if align_corners:
        position = out * ((size - 1) / (out_size - 1) if out_size > 1 else 0.0)
    else:
        position = ((out + 0.5) * (size / out_size) - 0.5).clamp(min=0)
    low = position.long().clamp(max=size - 1)
    high = (low + 1).clamp(max=size - 1)
    fraction = position - low
    matrix = torch.zeros(out_size, size, dtype=torch.float64)
    rows = torch.arange(out_size)
    matrix.index_put_((rows, low), 1 - fraction, accumulate=True)
    matrix.index_put_((rows, high), fraction, accumulate=True)
    return matrix


@dataclass(frozen=True)
class _Whole:
    """The matrix of one side, (out_size, size), and which of its columns each row has."""

    matrix: Tensor
    first: Sequence[int]
    last: Sequence[int]

    def of(self, rows: slice) -> tuple[Tensor, slice]:
        """The part of the matrix for `rows`, without columns of zeros, and those columns."""
        # Positions grow with the row.
        native = slice(self.first[rows.start], self.last[rows.stop - 1] + 1)
        return self.matrix[rows, native], native


@dataclass(frozen=True)
class _Tiles:
    """The matrix of one side by tiles of `TILE` rows, the last filled up with rows of zeros.

    Attributes:
        weights: (tiles, TILE, k).
        columns: (tiles, k), the columns that the weights stand in.
        first, last: Of each tile's columns.
    """

    weights: Tensor
    columns: Tensor
    first: Sequence[int]
    last: Sequence[int]

    def of(self, rows: slice) -> tuple[Tensor, Tensor, slice]:
        """Of the tiles with `rows`: weights, their columns counted from the span, the span."""
        tiles = slice(rows.start // TILE, -(-rows.stop // TILE))
        native = slice(self.first[tiles.start], self.last[tiles.stop - 1] + 1)
        return self.weights[tiles], self.columns[tiles] - native.start, native


def _used(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The first and the last column of each row that is not zero."""
    is_used = (matrix != 0).int()
    return is_used.argmax(-1), matrix.shape[-1] - 1 - is_used.flip(-1).argmax(-1)


def _tiles(matrix: Tensor) -> _Tiles:
    out_size, size = matrix.shape
    count = -(-out_size // TILE)
    padded = matrix.new_zeros(count * TILE, size)
    padded[:out_size] = matrix
    by_tile = padded.view(count, TILE, size)
    first, last = _used(by_tile.abs().sum(1))
    k = int((last - first).max()) + 1
    first = first.clamp(max=size - k)
    columns = first[:, None] + torch.arange(k)
    weights = by_tile.gather(2, columns[:, None].expand(-1, TILE, -1))
    return _Tiles(weights, columns, first.tolist(), columns[:, -1].tolist())


@lru_cache(maxsize=64)
def _matrices(
    size: tuple[int, int],
    out_size: tuple[int, int],
    align_corners: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[_Tiles, _Whole]:
    """The tiles of the rows and the matrix of the columns, made once for each pair of sizes."""
    tiles = _tiles(interpolation_matrix(size[0], out_size[0], align_corners))
    weights, columns = tiles.weights.to(device, dtype), tiles.columns.to(device)
    matrix = interpolation_matrix(size[1], out_size[1], align_corners)
    first, last = _used(matrix)
    whole = _Whole(matrix.to(device, dtype), first.tolist(), last.tolist())
    return replace(tiles, weights=weights, columns=columns), whole


def _part_of(memory: Tensor, shape: Sequence[int]) -> Tensor:
    """A dense tensor of `shape` in the first values of `memory`, which is grown where too small."""
    count = math.prod(shape)
    if len(memory) < count:
        memory.resize_(count)
    return memory[:count].view(shape)


class Resizing:
    """Bilinear interpolation of maps of one size to another, piece by piece.

    Args:
        size: Height and width of the maps.
        out_size: Height and width after the interpolation.
        like: A tensor of the maps' dtype and device.
        align_corners: As in torch.nn.functional.interpolate.
    """

    def __init__(
        self,
        size: tuple[int, int],
        out_size: tuple[int, int],
        like: Tensor,
        align_corners: bool = False,
    ) -> None:
        self.is_identity = size == out_size
        self.tiles, self.columns = _matrices(size, out_size, align_corners, like.dtype, like.device)

    def piece(
        self, x_hCw: Tensor, rows: slice, columns: slice, memory: Tensor | None = None
    ) -> Tensor:
        """Rows and columns of the interpolated map, (R, C, V), in memory of its own.

        Args:
            x_hCw: The whole map.
            rows: Rows of the result, from the first of a tile on.
            columns: Columns of the result.
            memory: What an earlier piece lay in, a vector. It is grown where it is too small.
                Memory that is new for each piece costs as much as a product: the system has to
                clear it.
        """
        if memory is None:
            memory = x_hCw.new_empty(0)
        if self.is_identity:
            part_RCV = x_hCw[rows, :, columns]
            return _part_of(memory, part_RCV.shape).copy_(part_RCV)
        weights, index, native_rows = self.tiles.of(rows)
        matrix_Vw, native_columns = self.columns.of(columns)
        x_hCV = x_hCw[native_rows, :, native_columns] @ matrix_Vw.mT
        h, c, v = x_hCV.shape
        window_TkX = x_hCV.view(h, c * v).index_select(0, index.flatten()).view(*index.shape, c * v)
        out_TRX = _part_of(memory, (len(index), TILE, c * v))
        out_RCV = torch.bmm(weights, window_TkX, out=out_TRX).view(-1, c, v)
        return out_RCV[: rows.stop - rows.start]

    def add_transposed(
        self, gradient_RCV: Tensor, rows: slice, columns: slice, total_hCw: Tensor
    ) -> None:
        """Add to `total_hCw` the gradient that a piece's gradient gives the map.

        Args:
            gradient_RCV: Of the piece that `piece` gives for the same rows and columns.
            rows, columns: As there.
            total_hCw: The sum, in the shape of the map.
        """
        if self.is_identity:
            total_hCw[rows, :, columns] += gradient_RCV
            return
        r, c, v = gradient_RCV.shape
        weights, index, native_rows = self.tiles.of(rows)
        padding = len(index) * TILE - r
        if padding:
            gradient_RCV = torch.cat([gradient_RCV, gradient_RCV.new_zeros(padding, c, v)])
        window_TkX = torch.bmm(weights.mT, gradient_RCV.view(len(index), TILE, c * v))
        sum_hX = window_TkX.new_zeros(native_rows.stop - native_rows.start, c * v)
        # Windows of neighbouring tiles overlap.
        sum_hX.index_add_(0, index.flatten(), window_TkX.view(-1, c * v))
        matrix_Vw, native_columns = self.columns.of(columns)
        total_hCw[native_rows, :, native_columns] += sum_hX.view(-1, c, v) @ matrix_Vw
