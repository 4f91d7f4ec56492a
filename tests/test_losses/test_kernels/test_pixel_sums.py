"""Any formula of a pixel in pieces against the same formula of whole maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import Largest, value_and_gradient
from test_piecewise import SIZES, maps, random_mask
from torch import Tensor

from mmseg_kd.losses.functional import softmax_divergence
from mmseg_kd.losses.kernels import piecewise
from mmseg_kd.losses.kernels.pixel_sums import GRAPH, pixel_sums


def terms(student: Tensor, teachers: Sequence[Tensor], label: Tensor | None) -> list[Tensor]:
    """One number a pixel, then one a channel."""
    assert label is not None
    divergence = softmax_divergence(student, list(teachers), tau=2.0, dim=1).unsqueeze(1)
    return [divergence * (label + 1), student.softmax(1).square()]


def one_term(student: Tensor, teachers: Sequence[Tensor], label: Tensor | None) -> list[Tensor]:
    return terms(student, teachers, label)[:1]


def plain_sums(
    of: Callable[..., list[Tensor]],
    student: Tensor,
    teachers: Sequence[Tensor],
    label: Tensor,
    mask: Tensor | None,
    size: tuple[int, int],
) -> Tensor:
    resized = [F.interpolate(x, size, mode='bilinear') for x in (student, *teachers)]
    values = torch.cat(of(resized[0], resized[1:], label[:, None]), 1)
    if mask is not None:
        values = values * mask[:, None]
    return values.sum((2, 3))


@pytest.fixture(params=[2**19, 200, 1], ids=['one piece', 'pieces', 'smallest pieces'])
def piece(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piecewise, 'PIECE_CPU', request.param * GRAPH)
    monkeypatch.setattr(piecewise, 'COLUMNS', 2 if request.param < 2**19 else 32)


@pytest.mark.usefixtures('piece')
@pytest.mark.parametrize('of', [terms, one_term])
@pytest.mark.parametrize('sizes', SIZES)
def test_sums_and_gradient_of_the_plain_formula(
    sizes: tuple[Any, Any, Any], of: Callable[..., list[Tensor]]
) -> None:
    student, teacher = maps(*sizes[:2])
    size = sizes[2]
    teachers = [teacher, maps((2, 3), (4, 4))[1]]
    label = random_mask(size).long()

    def both_ways(mask: Tensor | None) -> list[tuple[Tensor, Tensor]]:
        def pieces(student: Tensor) -> Tensor:
            given: dict[str, Any] = dict(mask_NHW=mask, label_NHW=label, is_one=of is one_term)
            return weighted(pixel_sums(of, student, teachers, size=size, **given))

        def plain(student: Tensor) -> Tensor:
            return weighted(plain_sums(of, student, teachers, label, mask, size))

        return [value_and_gradient(pieces, student), value_and_gradient(plain, student)]

    for mask in (None, random_mask(size), torch.zeros_like(random_mask(size))):
        torch.testing.assert_close(*both_ways(mask), rtol=1e-9, atol=1e-12)


def weighted(sums: Tensor) -> Tensor:
    """A number for which each sum of each image counts in a way of its own."""
    return (sums * torch.linspace(-1, 2, sums.numel()).view_as(sums)).square().sum()


@pytest.mark.parametrize('of', [terms, one_term])
def test_memory_does_not_grow_with_the_result(
    of: Callable[..., list[Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(piecewise, 'PIECE_CPU', 2**17)
    student = torch.randn(1, 30, 16, 16, requires_grad=True)
    teacher = torch.randn(1, 30, 16, 16)
    for side in (64, 256, 512):
        label = torch.zeros(1, side, side, dtype=torch.long)
        with Largest() as largest:
            pixel_sums(
                of,
                student,
                [teacher],
                size=(side, side),
                label_NHW=label,
                mask_NHW=label == 0,
                is_one=of is one_term,
            ).sum().backward()
        assert largest.values <= 2 * 2**17 // GRAPH


@pytest.mark.parametrize('is_one', [True, False])
@pytest.mark.parametrize('fill', [torch.inf, torch.nan])
def test_what_is_hidden_may_hold_anything(fill: float, is_one: bool) -> None:
    student, teacher = maps((5, 7), (5, 7))
    mask = random_mask((5, 7))
    options: dict[str, Any] = dict(size=(5, 7), mask_NHW=mask, label_NHW=mask.long(), is_one=is_one)
    of = one_term if is_one else terms
    expected = value_and_gradient(lambda x: pixel_sums(of, x, [teacher], **options).sum(), student)
    hidden = student.masked_fill(~mask[:, None], fill)
    found = value_and_gradient(lambda x: pixel_sums(of, x, [teacher], **options).sum(), hidden)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize('is_one', [True, False])
def test_a_backward_pass_under_autocast_is_in_full_precision(is_one: bool) -> None:
    student, teacher = maps((5, 7), (5, 7), dtype=torch.float32)
    of = one_term if is_one else terms
    label = random_mask((9, 8)).long()

    def loss(x: Tensor) -> Tensor:
        # A matrix product, which autocast would take in bfloat16.
        def mixed(s: Tensor, t: Sequence[Tensor], y: Tensor | None) -> list[Tensor]:
            return of(torch.einsum('rcv,cd->rdv', s, torch.eye(7)), t, y)

        return pixel_sums(mixed, x, [teacher], size=(9, 8), label_NHW=label, is_one=is_one).sum()

    student.requires_grad_()
    expected = torch.autograd.grad(loss(student), student)[0]
    value = loss(student)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = torch.autograd.grad(value, student)[0]
    assert torch.equal(found, expected)


def test_a_second_derivative_is_refused() -> None:
    student, teacher = maps((5, 7), (5, 7))
    student.requires_grad_()
    sums = pixel_sums(terms, student, [teacher], size=(5, 7), label_NHW=random_mask((5, 7)).long())
    (gradient,) = torch.autograd.grad(sums.sum(), student, create_graph=True)
    with pytest.raises(RuntimeError, match='no second derivative'):
        gradient.sum().backward()


def test_no_gradient_is_computed_where_none_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = maps((5, 7), (5, 7))
    monkeypatch.setattr(torch.autograd, 'grad', None)
    options: dict[str, Any] = dict(size=(9, 8), label_NHW=random_mask((9, 8)).long())
    for is_one in (False, True):
        sums = pixel_sums(one_term, student, [teacher], is_one=is_one, **options)
        assert not sums.requires_grad
        assert sums.dtype == torch.float64


def test_compiled_code_runs_it_as_it_is() -> None:
    student, teacher = maps((5, 7), (5, 7))
    label = random_mask((9, 8)).long()

    def step(x: Tensor) -> Tensor:
        return pixel_sums(terms, x * 2, [teacher], size=(9, 8), label_NHW=label).sum() + 1

    torch.testing.assert_close(
        value_and_gradient(torch.compile(step, backend='eager'), student),
        value_and_gradient(step, student),
    )
