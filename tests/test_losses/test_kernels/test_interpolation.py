from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from mmseg_kd.losses.kernels.interpolation import (
    TILE,
    Resizing,
    full_precision,
    interpolation_matrix,
)

# Height and width before and after: whole ratios and others, up and down, one pixel, equal sizes.
SIZES = [
    ((5, 7), (20, 28)),
    ((5, 7), (13, 40)),
    ((9, 30), (4, 17)),
    ((1, 1), (3, 35)),
    ((6, 5), (6, 50)),
    ((6, 5), (6, 5)),
    ((33, 47), (100, 16)),
]


@pytest.mark.parametrize(('size', 'out_size'), SIZES)
@pytest.mark.parametrize('align_corners', [False, True])
def test_pieces_are_those_of_interpolate(
    size: tuple[int, int], out_size: tuple[int, int], align_corners: bool
) -> None:
    x_Chw = torch.randn(3, *size, dtype=torch.float64)
    expected = F.interpolate(x_Chw[None], out_size, mode='bilinear', align_corners=align_corners)[0]
    resizing = Resizing(size, out_size, x_Chw, align_corners)
    x_hCw = x_Chw.permute(1, 0, 2).contiguous()
    for rows, columns in pieces(out_size):
        piece = resizing.piece(x_hCw, rows, columns)
        torch.testing.assert_close(piece, expected[:, rows, columns].permute(1, 0, 2))
        assert piece.is_contiguous()


@pytest.mark.parametrize(('size', 'out_size'), SIZES)
@pytest.mark.parametrize('align_corners', [False, True])
def test_transposed_is_the_gradient_of_interpolate(
    size: tuple[int, int], out_size: tuple[int, int], align_corners: bool
) -> None:
    x_Chw = torch.randn(3, *size, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(3, *out_size, dtype=torch.float64)
    out = F.interpolate(x_Chw[None], out_size, mode='bilinear', align_corners=align_corners)[0]
    (out * weights).sum().backward()
    assert x_Chw.grad is not None
    resizing = Resizing(size, out_size, x_Chw.detach(), align_corners)
    total = torch.zeros(size[0], 3, size[1], dtype=torch.float64)
    for rows, columns in pieces(out_size):
        piece = weights[:, rows, columns].permute(1, 0, 2).contiguous()
        resizing.add_transposed(piece, rows, columns, total)
    torch.testing.assert_close(total.permute(1, 0, 2), x_Chw.grad)


def pieces(out_size: tuple[int, int]) -> list[tuple[slice, slice]]:
    """Pieces of 2 tiles of rows and of 3 columns, the last ones smaller."""
    rows, columns = (
        [slice(i, min(i + step, length)) for i in range(0, length, step)]
        for length, step in zip(out_size, (2 * TILE, 3), strict=True)
    )
    return list(itertools.product(rows, columns))


def test_a_piece_is_no_view_of_the_map() -> None:
    x_hCw = torch.zeros(4, 2, 4)
    Resizing((4, 4), (4, 4), x_hCw).piece(x_hCw, slice(0, 4), slice(0, 4)).fill_(1)
    assert not x_hCw.any()


def test_rows_of_a_matrix_add_up_to_one() -> None:
    for align_corners in (False, True):
        matrix = interpolation_matrix(7, 30, align_corners)
        torch.testing.assert_close(matrix.sum(1), torch.ones(30, dtype=torch.float64))


def precision() -> list[Any]:
    """What matrix products are allowed; None where PyTorch refuses to say."""
    matmul = torch.backends.cuda.matmul
    found = []
    for read in (torch.get_float32_matmul_precision, lambda: matmul.allow_tf32):
        try:
            found.append(read())
        except RuntimeError:
            found.append(None)
    newer = (matmul, getattr(torch.backends.mkldnn, 'matmul', None))
    return [*found, *(getattr(backend, 'fp32_precision', None) for backend in newer)]


@pytest.fixture
def precision_as_before() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    _, _, *newer = precision()
    yield
    torch.set_float32_matmul_precision(before)
    for backend, old in zip((torch.backends.cuda, torch.backends.mkldnn), newer, strict=True):
        if old is not None:
            backend.matmul.fp32_precision = old


def allow_tf32() -> None:
    torch.backends.cuda.matmul.allow_tf32 = True


def allow_tf32_in_the_newer_way() -> None:
    if not hasattr(torch.backends.cuda.matmul, 'fp32_precision'):
        pytest.skip('PyTorch has no other way yet')
    torch.backends.cuda.matmul.fp32_precision = 'tf32'


@pytest.mark.usefixtures('precision_as_before')
@pytest.mark.parametrize(
    'allow',
    [
        lambda: None,
        lambda: torch.set_float32_matmul_precision('high'),
        lambda: torch.set_float32_matmul_precision('medium'),
        allow_tf32,
        allow_tf32_in_the_newer_way,
    ],
)
def test_full_precision_in_whichever_way_less_was_allowed(allow: Callable[[], None]) -> None:
    allow()
    before = precision()
    with full_precision():
        old, is_tf32, *newer = precision()
        # Both ways agree, or PyTorch would refuse to say.
        assert old == 'highest'
        assert is_tf32 is False
        assert set(newer) <= {'ieee', 'none', None}
    assert precision() == before
