"""The losses in pieces against the plain formulas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import Largest, value_and_gradient
from torch import Tensor

from mmseg_kd.losses import functional
from mmseg_kd.losses.kernels import piecewise

CHANNELS = 7
# A group size that divides the channels, one that does not, one channel, more than there are.
GROUPS = [None, 1, 3, 7, 10]
SIZES = [
    # student, teacher, result
    ((5, 7), (5, 7), (20, 28)),
    ((5, 7), (9, 4), (13, 37)),
    ((8, 8), (8, 8), (8, 8)),
    ((9, 20), (3, 3), (4, 17)),
    ((1, 1), (2, 2), (3, 5)),
]

Loss = Callable[[Tensor], Tensor]


def both(
    teacher: Tensor,
    size: tuple[int, int],
    group_size: int | None,
    mask: Tensor | None = None,
    tau: float = 2.0,
    align_corners: bool = False,
) -> tuple[Loss, Loss]:
    """The loss in pieces and by the plain formula; without a group size that of pixels."""

    def resized(x: Tensor) -> Tensor:
        return F.interpolate(x, size, mode='bilinear', align_corners=align_corners)

    options: dict[str, Any] = dict(tau=tau, mask_NHW=mask)
    of_pieces: dict[str, Any] = dict(**options, size=size, align_corners=align_corners)

    def pieces(student: Tensor) -> Tensor:
        if group_size is None:
            return piecewise.pixel_divergence(student, teacher, **of_pieces)
        return piecewise.group_divergence(student, teacher, group_size=group_size, **of_pieces)

    def plain(student: Tensor) -> Tensor:
        maps = (resized(student), resized(teacher))
        if group_size is None:
            return functional.pixel_divergence(*maps, **options)
        return functional.group_divergence(*maps, group_size=group_size, **options)

    return pieces, plain


def maps(*sizes: tuple[int, int], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(2, CHANNELS, *size, generator=generator, dtype=torch.float64) * 3).to(dtype)
        for size in sizes
    ]


def random_mask(size: tuple[int, int]) -> Tensor:
    return torch.rand(2, *size, generator=torch.Generator().manual_seed(1)) > 0.4


@pytest.fixture(params=[2**19, 200, 1], ids=['one piece', 'pieces', 'smallest pieces'])
def piece(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piecewise, 'PIECE_CPU', request.param)
    monkeypatch.setattr(piecewise, 'COLUMNS', 2 if request.param < 2**19 else 32)


@pytest.mark.usefixtures('piece')
@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('group_size', GROUPS)
@pytest.mark.parametrize('sizes', SIZES)
def test_value_and_gradient_of_the_plain_formula(
    sizes: tuple[Any, Any, Any], group_size: int | None, align_corners: bool
) -> None:
    student, teacher = maps(*sizes[:2])
    size = sizes[2]
    image_hidden = random_mask(size)
    image_hidden[0] = False
    for mask in (None, random_mask(size), image_hidden, torch.zeros_like(image_hidden)):
        pieces, plain = both(teacher, size, group_size, mask, align_corners=align_corners)
        torch.testing.assert_close(
            value_and_gradient(pieces, student),
            value_and_gradient(plain, student),
            rtol=1e-9,
            atol=1e-12,
        )


@pytest.mark.usefixtures('piece')
@pytest.mark.parametrize('tau', [0.05, 3.3])
@pytest.mark.parametrize('group_size', [None, 3])
def test_gradients_in_double_are_exact_under_a_mask(group_size: int | None, tau: float) -> None:
    student, teacher = maps((3, 4), (3, 4))
    pieces, plain = both(teacher, (6, 8), group_size, random_mask((6, 8)), tau)
    torch.testing.assert_close(
        value_and_gradient(pieces, student),
        value_and_gradient(plain, student),
        rtol=1e-12,
        atol=1e-15,
    )


@pytest.mark.parametrize('group_size', [None, 1, 3])
def test_gradcheck(group_size: int | None) -> None:
    student, teacher = maps((3, 4), (2, 5))
    size = (7, 18)
    pieces, _ = both(teacher, size, group_size, random_mask(size))
    assert torch.autograd.gradcheck(pieces, student.requires_grad_(), fast_mode=True)


@pytest.mark.parametrize('group_size', [None, 3])
def test_strides_of_the_inputs_do_not_matter(group_size: int | None) -> None:
    student, teacher = maps((5, 7), (5, 7))
    mask = random_mask((20, 28))
    expected = value_and_gradient(both(teacher, (20, 28), group_size, mask)[0], student)
    for change in (
        lambda x: x.to(memory_format=torch.channels_last),
        lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
        lambda x: torch.stack([x, x], -1)[..., 0],
    ):
        found = value_and_gradient(
            both(change(teacher), (20, 28), group_size, mask)[0], change(student)
        )
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize('group_size', [None, 1, 3])
@pytest.mark.parametrize('scale', [1e3, 1e6])
def test_large_logits_neither_overflow_nor_vanish(group_size: int | None, scale: float) -> None:
    student, teacher = (x * scale for x in maps((5, 7), (5, 7), dtype=torch.float32))
    pieces, plain = both(teacher, (20, 28), group_size, random_mask((20, 28)))
    value, gradient = value_and_gradient(pieces, student)
    expected, _ = value_and_gradient(plain, student)
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=0)
    assert gradient.isfinite().all()


@pytest.mark.usefixtures('piece')
@pytest.mark.parametrize('group_size', [1, 3])
def test_the_largest_values_may_come_last(group_size: int) -> None:
    student, teacher = maps((5, 7), (5, 7), dtype=torch.float32)
    # Far more than float32's exponent can hold, and so that the first pieces come to nothing.
    slope = torch.linspace(-500, 500, 35).view(5, 7)
    pieces, plain = both(teacher + slope, (20, 28), group_size)
    torch.testing.assert_close(
        value_and_gradient(pieces, student + slope),
        value_and_gradient(plain, student + slope),
        rtol=1e-4,
        atol=1e-6,
    )


def spikes(size: tuple[int, int], height: float) -> list[Tensor]:
    """Both maps, with spikes in the first two groups of three channels."""
    student, teacher = maps(size, size, dtype=torch.float32)
    student[:, :6:3, 3, 3] += height
    teacher[:, 1:6:3, 0, 0] += height
    return [student, teacher]


@pytest.fixture
def maxima(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The maxima at the size of the result, of the maps for which they were computed."""
    found = []
    largest = piecewise.Pieces.largest

    def remembered(self: piecewise.Pieces, x_NChw: Tensor) -> Tensor:
        found.append(largest(self, x_NChw))
        return found[-1]

    monkeypatch.setattr(piecewise.Pieces, 'largest', remembered)
    return found


@pytest.mark.usefixtures('piece')
@pytest.mark.parametrize('group_size', [None, 1, 3])
def test_a_peak_that_the_mask_leaves_out(group_size: int | None, maxima: list[Tensor]) -> None:
    student, teacher = spikes((8, 8), 200.0)
    mask = torch.ones(2, 16, 16, dtype=torch.bool)
    # Of the four pixels around the spikes one is left, with little of them, or none.
    mask[:, :2, :2] = False
    mask[0, 5:9, 5:9] = False
    mask[1, 6:8, 6:8] = False
    pieces, plain = both(teacher, (16, 16), group_size, mask, tau=1.0)
    torch.testing.assert_close(
        value_and_gradient(pieces, student),
        value_and_gradient(plain, student),
        rtol=1e-4,
        atol=1e-6,
    )
    if group_size is not None:
        assert maxima


@pytest.mark.usefixtures('piece')
@pytest.mark.parametrize('group_size', [None, 1, 3])
def test_a_spike_that_interpolation_leaves_out(
    group_size: int | None, maxima: list[Tensor]
) -> None:
    # Of every 4 x 4 values those in the middle are taken: the spikes' weight is 0 or a quarter.
    student, teacher = spikes((16, 16), 500.0)
    pieces, plain = both(teacher, (4, 4), group_size, tau=1.0)
    torch.testing.assert_close(
        value_and_gradient(pieces, student),
        value_and_gradient(plain, student),
        rtol=1e-4,
        atol=1e-6,
    )
    if group_size is not None:
        assert maxima


def test_no_maxima_where_nothing_vanishes(maxima: list[Tensor]) -> None:
    student, teacher = maps((5, 7), (5, 7))
    # What is far from every pixel that takes part need not be looked at.
    student[:, :, 4, 6], teacher[:, :, 4, 6] = 1e9, torch.nan
    mask = torch.ones(2, 20, 28, dtype=torch.bool)
    mask[:, 12:, 20:] = False
    pieces, _ = both(teacher, (20, 28), 3, mask)
    value, gradient = value_and_gradient(pieces, student)
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert not maxima


@pytest.mark.usefixtures('piece')
@pytest.mark.parametrize('size', [(5, 7), (10, 14)])
@pytest.mark.parametrize('group_size', [None, 1, 3])
def test_what_is_hidden_may_hold_anything(group_size: int | None, size: tuple[int, int]) -> None:
    student, teacher = maps((5, 7), (5, 7))
    mask = torch.ones(2, *size, dtype=torch.bool)
    mask[:, -3:, -3:] = False
    expected = value_and_gradient(both(teacher, size, group_size, mask)[0], student)
    for fill in (torch.nan, torch.inf, -torch.inf, 1e9):
        student[..., -1, -1] = teacher[..., -1, -1] = fill
        found = value_and_gradient(both(teacher, size, group_size, mask)[0], student)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize('value', [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize('group_size', [None, 1, 3])
@pytest.mark.parametrize('side', [0, 1])
def test_a_value_that_is_not_finite_is_never_a_finite_loss(
    group_size: int | None, value: float, side: int
) -> None:
    both_maps = maps((5, 7), (5, 7))
    both_maps[side][0, 2, 3, 3] = value
    pieces, _ = both(both_maps[1], (20, 28), group_size)
    assert not pieces(both_maps[0]).isfinite()


@pytest.mark.parametrize('group_size', [None, 3])
def test_a_second_derivative_is_refused(group_size: int | None) -> None:
    student, teacher = maps((5, 7), (5, 7))
    pieces, _ = both(teacher, (20, 28), group_size)
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(pieces(student), student, create_graph=True)
    with pytest.raises(RuntimeError, match='no second derivative'):
        gradient.sum().backward()


def test_no_gradient_is_computed_where_none_is_asked_for() -> None:
    student, teacher = maps((5, 7), (5, 7))
    pieces, plain = both(teacher, (20, 28), 3)
    torch.testing.assert_close(pieces(student), plain(student))
    assert not pieces(student).requires_grad


@pytest.mark.parametrize('group_size', [None, 1, 10, 30])
def test_memory_does_not_grow_with_the_result(
    group_size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(piecewise, 'PIECE_CPU', 2**15)
    student = torch.randn(1, 30, 16, 16, requires_grad=True)
    teacher = torch.randn(1, 30, 16, 16)
    held = []
    for side in (64, 128, 256, 512):
        mask = torch.ones(1, side, side, dtype=torch.bool)
        pieces, _ = both(teacher, (side, side), group_size, mask)
        with Largest() as largest:
            pieces(student).backward()
        held.append(largest.values)
    # At the largest a piece is one tile of 32 columns, or all columns, and with its margins.
    assert max(held) <= 2 * 2**15


@pytest.mark.parametrize('group_size', [None, 3])
def test_less_precise_matrix_products_are_not_for_scores(group_size: int | None) -> None:
    student, teacher = maps((16, 16), (16, 16), dtype=torch.float32)
    pieces, _ = both(teacher, (64, 64), group_size)
    expected = value_and_gradient(pieces, student)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision('medium')
        rough = torch.randn(64, 64)
        exact = (rough.double() @ rough.double()).float()
        found = value_and_gradient(pieces, student)
        assert torch.get_float32_matmul_precision() == 'medium'
        if torch.allclose(rough @ rough, exact, rtol=1e-5, atol=1e-5):
            pytest.skip('this processor has no faster products of less precision')
    finally:
        torch.set_float32_matmul_precision(before)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
