"""Losses on maps of any shape, dtype and layout, with any values and labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import value_and_gradient
from hypothesis import assume, given
from hypothesis import strategies as st
from maps import DTYPES, KINDS, LAYOUTS, laid_out, values
from torch import Tensor

from mmseg_kd.losses import ATLoss, AttentionValueLoss, CDLoss, CGDLoss, IFVDLoss, KLLoss
from mmseg_kd.losses.cross_entropy import cross_entropy_sums
from mmseg_kd.losses.functional import group_divergence, pixel_divergence, resize_label
from mmseg_kd.losses.kernels import piecewise

Size = tuple[int, int]

SIZES = st.tuples(st.integers(1, 7), st.integers(1, 7))
LARGE_SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))
IGNORED = 255


@dataclass(frozen=True)
class Inputs:
    """Maps and labels for a loss, and how it is built.

    Attributes:
        student, teacher: In the dtype and layout of the example.
        label: Classes 0 to 4 and, in places, `IGNORED`.
        scale: The largest values are about this.
        options: `tau`, `resolution` and `ignore_index`.
        group_size: For CGDLoss.
        piece: Values of a piece.
    """

    student: Tensor
    teacher: Tensor
    label: Tensor
    scale: float
    options: dict[str, Any]
    group_size: int
    piece: int

    @property
    def size(self) -> Size:
        """Where the softmax is taken."""
        maps = dict(student=self.student, teacher=self.teacher, label=self.label)
        height, width = maps[self.options['resolution']].shape[-2:]
        return height, width


@st.composite
def inputs(
    draw: Any,
    dtypes: list[torch.dtype] = DTYPES,
    scales: tuple[float, ...] = (1e-30, 1e-3, 1.0, 10.0),
    kinds: list[str] = KINDS,
) -> Inputs:
    n, channels = draw(st.integers(1, 2)), draw(st.integers(1, 6))
    dtype = draw(st.sampled_from(dtypes))
    scale = min(draw(st.sampled_from(scales)), torch.finfo(dtype).max / 8)
    maps = []
    for _ in range(2):
        x = values(
            (n, channels, *draw(SIZES)),
            draw(st.integers(0, 2**31)),
            draw(st.sampled_from(kinds)),
            scale,
        )
        maps.append(laid_out(x.to(dtype), draw(st.sampled_from(LAYOUTS))))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    label = torch.randint(0, 5, (n, *draw(LARGE_SIZES)), generator=generator)
    share = draw(st.sampled_from([0.0, 0.3, 0.9]))
    label[torch.rand(label.shape, generator=generator) < share] = IGNORED
    options = dict(
        tau=draw(st.floats(0.05, 20)),
        resolution=draw(st.sampled_from(['label', 'student', 'teacher'])),
        ignore_index=draw(st.sampled_from([None, IGNORED])),
    )
    piece = draw(st.sampled_from([1, 60, 2**19]))
    return Inputs(*maps, label, scale, options, draw(st.integers(1, 8)), piece)


@contextmanager
def pieces_of(count: int) -> Iterator[None]:
    """Losses in pieces of so many values."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(piecewise, 'PIECE_CPU', count)
        patch.setattr(piecewise, 'COLUMNS', 32 if count > 1000 else 2)
        yield


def make(kind: Any, x: Inputs, **changes: Any) -> Callable[..., Tensor]:
    options = dict(group_size=x.group_size) if kind is CGDLoss else {}
    loss: Callable[..., Tensor] = kind(**{**x.options, **options, **changes})
    return loss


def plain(kind: Any, x: Inputs, student: Tensor) -> Tensor:
    """The formula of KLLoss, CDLoss and CGDLoss on maps that are held as a whole."""
    ours, theirs = (
        F.interpolate(m, x.size, mode='bilinear', align_corners=False)
        for m in (student, x.teacher.double())
    )
    mask = None
    if x.options['ignore_index'] is not None:
        mask = resize_label(x.label, x.size) != IGNORED
    tau = x.options['tau']
    if kind is KLLoss:
        if ours.shape[1] == 1:  # a sigmoid
            ours, theirs = (torch.cat([m, torch.zeros_like(m)], 1) for m in (ours, theirs))
        return pixel_divergence(ours, theirs, tau=tau, mask_NHW=mask)
    group_size = 1 if kind is CDLoss else x.group_size
    return group_divergence(ours, theirs, group_size=group_size, tau=tau, mask_NHW=mask)


SOFTMAX_LOSSES = [KLLoss, CDLoss, CGDLoss]
LOSSES = [*SOFTMAX_LOSSES, ATLoss, IFVDLoss]


@given(kind=st.sampled_from(SOFTMAX_LOSSES), x=inputs())
def test_a_loss_in_pieces_is_the_plain_formula(kind: Any, x: Inputs) -> None:
    with pieces_of(x.piece):
        value, gradient = value_and_gradient(make(kind, x), x.student, x.teacher, x.label)
    expected, expected_gradient = value_and_gradient(
        lambda student: plain(kind, x, student), x.student.double()
    )
    assert value.dtype == (torch.float64 if x.student.dtype == torch.float64 else torch.float32)
    assert gradient.dtype == x.student.dtype
    # What rounding makes of logits, which the temperature divides.
    logits = max(x.scale, 1e-3) / x.options['tau']
    eps = 1e-12 if value.dtype == torch.float64 else 2e-5
    torch.testing.assert_close(value.double(), expected, rtol=eps, atol=eps * (1 + logits))
    # What rounding leaves of the difference of two probabilities, where they are the same.
    least = (1e-13 if value.dtype == torch.float64 else 3e-6) / x.options['tau']
    eps = max(eps, 2 * torch.finfo(gradient.dtype).eps)
    largest = float(expected_gradient.abs().max())
    torch.testing.assert_close(
        gradient.double(), expected_gradient, rtol=eps, atol=eps * (1 + logits) * largest + least
    )


@given(
    kind=st.sampled_from(SOFTMAX_LOSSES),
    x=inputs(dtypes=[torch.bfloat16, torch.float32, torch.float64], scales=(1e4, 1e12, 1e30)),
)
def test_extreme_logits_give_what_they_are_worth(kind: Any, x: Inputs) -> None:
    with pieces_of(x.piece):
        value, gradient = value_and_gradient(make(kind, x), x.student, x.teacher, x.label)
    assert gradient.isfinite().all()
    # The most that a divergence can be, and what rounding may leave of 0.
    difference = float(x.student.double().abs().max() + x.teacher.double().abs().max())
    largest = 2 * difference / x.options['tau']
    assert -1e-5 * largest <= float(value) <= largest * 1.001
    if x.size == tuple(x.student.shape[-2:]) == tuple(x.teacher.shape[-2:]):
        # Nothing is interpolated, so that no two logits change places.
        expected = plain(kind, x, x.student.double())
        torch.testing.assert_close(value.double(), expected, rtol=1e-3, atol=1e-5 * largest)


@given(
    kind=st.sampled_from(LOSSES),
    x=inputs(),
    bad=st.sampled_from([float('nan'), float('inf'), float('-inf')]),
    side=st.sampled_from(['student', 'teacher']),
    place=st.integers(0, 2**31),
    grown=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    alone=st.booleans(),
)
def test_no_bad_number_is_lost(
    kind: Any, x: Inputs, bad: float, side: str, place: int, grown: Size, alone: bool
) -> None:
    maps = dict(student=x.student.clone(), teacher=x.teacher.clone())
    flat = maps[side].reshape(-1).clone()
    flat[place % flat.numel()] = bad
    maps[side] = flat.view(maps[side].shape)
    # Every pixel counts: labels of no less height and width than the maps.
    height, width = (max(m.shape[i] for m in maps.values()) for i in (2, 3))
    label = torch.zeros(len(x.label), height * grown[0], width * grown[1], dtype=torch.long)
    changes: dict[str, Any] = dict(ignore_index=None, resolution='label')
    if alone and kind in (ATLoss, IFVDLoss):
        changes['kl_weight'] = 0.0
    with pieces_of(x.piece):
        value = make(kind, x, **changes)(maps['student'], maps['teacher'], label)
    assert not value.isfinite()


@given(
    kind=st.sampled_from([*SOFTMAX_LOSSES, None]),
    x=inputs(dtypes=[torch.float32, torch.float64], kinds=['normal']),
    bad=st.sampled_from([float('nan'), float('inf'), float('-inf'), 1e30]),
)
def test_what_is_ignored_may_be_anything(kind: Any, x: Inputs, bad: float) -> None:
    teacher = x.student.flip(0, 1)
    label = resize_label(x.label % x.student.shape[1], x.student.shape[-2:])
    label[..., 0] = IGNORED
    hidden = (label == IGNORED)[:, None].expand_as(x.student)

    def of(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        if kind is None:
            return value_and_gradient(lambda s: cross_entropy_sums(s, label)[0], student)
        loss = make(kind, x, ignore_index=IGNORED, resolution='student')
        return value_and_gradient(loss, student, teacher, label)

    with pieces_of(x.piece):
        expected = of(x.student, teacher)
        found = of(x.student.masked_fill(hidden, bad), teacher.masked_fill(hidden, bad))
    torch.testing.assert_close(found, expected)


@given(kind=st.sampled_from(LOSSES), x=inputs(scales=(1.0, 1e4, 1e15)))
def test_nothing_is_learnt_where_all_is_ignored(kind: Any, x: Inputs) -> None:
    loss = make(kind, x, ignore_index=IGNORED)
    with pieces_of(x.piece):
        value, gradient = value_and_gradient(
            loss, x.student, x.teacher, torch.full_like(x.label, IGNORED)
        )
    assert value == 0.0
    assert not gradient.any()


@given(kind=st.sampled_from(LOSSES), x=inputs(kinds=['normal']))
def test_layouts_of_memory_do_not_matter(kind: Any, x: Inputs) -> None:
    loss = make(kind, x)
    with pieces_of(x.piece):
        found = value_and_gradient(loss, x.student, x.teacher, x.label)
        expected = value_and_gradient(loss, x.student.contiguous(), x.teacher.contiguous(), x.label)
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-5)


@given(
    kind=st.sampled_from(LOSSES), x=inputs(kinds=['normal', 'spike', 'slope'], scales=(1.0, 10.0))
)
def test_a_twin_teaches_nothing(kind: Any, x: Inputs) -> None:
    with pieces_of(x.piece):
        value, gradient = value_and_gradient(make(kind, x), x.student, x.student, x.label)
    assert value.abs() <= 1e-4
    assert gradient.abs().max() <= 1e-3


@given(
    kind=st.sampled_from(LOSSES),
    shapes=st.tuples(*(st.lists(st.integers(1, 3), min_size=4, max_size=4) for _ in range(2))),
    label=st.lists(st.integers(1, 3), min_size=1, max_size=4),
    resolution=st.sampled_from(['label', 'student', 'teacher']),
)
def test_shapes_fit_or_are_refused(
    kind: Any, shapes: tuple[list[int], list[int]], label: list[int], resolution: str
) -> None:
    student, teacher = (values(tuple(shape), 0) for shape in shapes)
    label_NHW = torch.zeros(label, dtype=torch.long)
    fits = shapes[0][:2] == shapes[1][:2] and len(label) == 3 and label[0] == shapes[0][0]
    if fits:
        assert kind(resolution=resolution)(student, teacher, label_NHW).isfinite()
        return
    with pytest.raises(ValueError, match='must'):
        kind(resolution=resolution)(student, teacher, label_NHW)


@given(x=inputs(), align_corners=st.booleans(), weighted=st.booleans())
def test_cross_entropy_in_pieces_is_that_of_torch(
    x: Inputs, align_corners: bool, weighted: bool
) -> None:
    channels = x.student.shape[1]
    label = torch.where(x.label == IGNORED, IGNORED, x.label % channels)
    weight = torch.linspace(0.5, 2.0, channels, dtype=torch.float64) if weighted else None

    def torchs(score: Tensor) -> Tensor:
        size = tuple(label.shape[1:])
        score = F.interpolate(score, size, mode='bilinear', align_corners=align_corners)
        return F.cross_entropy(score, label, weight, ignore_index=IGNORED, reduction='sum')

    def ours(score: Tensor) -> Tensor:
        return cross_entropy_sums(score, label, weight, IGNORED, align_corners)[0]

    with pieces_of(x.piece):
        value, gradient = value_and_gradient(ours, x.student)
    expected, expected_gradient = value_and_gradient(torchs, x.student.double())
    pixels = label.numel()
    eps = 1e-11 if value.dtype == torch.float64 else 1e-5
    torch.testing.assert_close(value.double(), expected, rtol=eps, atol=eps * pixels)
    eps = max(eps, 2 * torch.finfo(gradient.dtype).eps)
    largest = float(expected_gradient.abs().max())
    torch.testing.assert_close(
        gradient.double(), expected_gradient, rtol=eps, atol=eps * (largest + pixels * 1e-2)
    )


@given(
    shape=st.tuples(*(st.integers(1, 6) for _ in range(3))),
    channels=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)),
    scale=st.sampled_from([1e-3, 1.0, 30.0]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**31),
    bad=st.sampled_from([None, float('nan'), float('inf')]),
)
def test_attention_and_values(
    shape: tuple[int, int, int],
    channels: tuple[int, int, int],
    scale: float,
    dtype: torch.dtype,
    seed: int,
    bad: float | None,
) -> None:
    n, length, sources = shape
    heads, ours, theirs = channels
    loss = AttentionValueLoss(relation_heads=heads)
    sides = []
    for index, width in enumerate((heads * ours, heads * theirs)):
        weights = values((n, length, sources), seed + index, scale=scale).softmax(-1)
        sides.append([weights.to(dtype), values((n, sources, width), seed + index).to(dtype)])
    (attention, value), teacher = sides
    if bad is not None:
        value = value.clone()
        value.view(-1)[seed % value.numel()] = bad
        assert not loss([attention, value], teacher).isfinite()
        return
    found, gradient = value_and_gradient(lambda v: loss([attention, v], teacher), value)
    assert found.isfinite()
    assert found >= -1e-5
    assert gradient.isfinite().all()
    assume(ours == theirs)
    assert loss(teacher, teacher).abs() <= 1e-5
