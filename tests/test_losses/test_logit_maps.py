from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
import torch
from conftest import plain_resize, random_label, random_maps
from torch import Tensor

from mmseg_kd.losses import ATLoss, CDLoss, CGDLoss, IFVDLoss, KLLoss, LogitLoss, LogitMaps
from mmseg_kd.losses.functional import group_divergence, pixel_divergence

SIZE = (6, 5)


def some_maps(teachers: int = 1) -> LogitMaps:
    student, teacher = random_maps((3, 4), (5, 3))
    others = [random_maps((3, 4), (4, 4), seed=seed)[1] for seed in range(1, teachers)]
    label = random_label(SIZE)
    return LogitMaps(student, [teacher, *others], SIZE, label != 255, label)


def test_maps_at_the_size() -> None:
    maps = some_maps(teachers=2)
    student, *teachers = maps.resized()
    torch.testing.assert_close(student, plain_resize(maps.student_NChw, SIZE))
    assert len(teachers) == 2
    for resized, teacher in zip(teachers, maps.teachers_NChw, strict=True):
        torch.testing.assert_close(resized, plain_resize(teacher, SIZE))


def test_a_change_is_for_all_maps_and_nothing_else() -> None:
    maps = some_maps(teachers=2)
    found = maps.changed(lambda x: x[:, :2] + 1)
    assert torch.equal(found.student_NChw, maps.student_NChw[:, :2] + 1)
    for changed, teacher in zip(found.teachers_NChw, maps.teachers_NChw, strict=True):
        assert torch.equal(changed, teacher[:, :2] + 1)
    assert found.size == SIZE
    assert found.mask_NHW is maps.mask_NHW
    assert found.label_NHW is maps.label_NHW
    assert maps.student_NChw.shape[1] == 5
    with pytest.raises(FrozenInstanceError):
        maps.size = (1, 1)  # type: ignore[misc]


@pytest.mark.parametrize('teachers', [1, 3])
def test_divergences_at_the_size(teachers: int) -> None:
    maps = some_maps(teachers)
    student, *others = maps.resized()
    torch.testing.assert_close(
        maps.pixel_divergence(2.0),
        pixel_divergence(student, others, tau=2.0, mask_NHW=maps.mask_NHW),
    )
    torch.testing.assert_close(
        maps.group_divergence(3, 2.0),
        group_divergence(student, others, group_size=3, tau=2.0, mask_NHW=maps.mask_NHW),
    )


def test_pixels_alone_and_by_class() -> None:
    maps = some_maps()
    assert maps.count() == (maps.label_NHW != 255).sum()
    assert replace(maps, mask_NHW=None).count() == 2 * 6 * 5
    assert maps.where(torch.zeros(2, *SIZE, dtype=torch.bool)).count() == 1
    # Of three classes, labels 3 and 4 are none.
    labelled = maps.changed(lambda x: x[:, :3]).labelled()
    assert maps.label_NHW is not None
    assert labelled.mask_NHW is not None
    assert torch.equal(labelled.mask_NHW, maps.label_NHW < 3)
    mean = maps.pixel_mean(lambda ours, theirs, label: ours[:, :1] * theirs[0][:, :1])
    student, teacher = maps.resized()
    assert maps.mask_NHW is not None
    torch.testing.assert_close(mean, (student * teacher)[:, 0][maps.mask_NHW].mean())


class Seen(LogitLoss):
    """Keeps what it is given."""

    def divergence(self, maps: LogitMaps) -> Tensor:
        self.maps = maps
        return maps.student_NChw.sum()


def test_what_a_loss_is_given() -> None:
    student, teacher = (x.half().requires_grad_() for x in random_maps((3, 4), (5, 3)))
    label = random_label((9, 8))
    loss = Seen(resolution='teacher', ignore_index=255)
    assert loss(student, teacher, label).dtype == torch.float32
    maps = loss.maps
    assert torch.equal(maps.student_NChw, student.float())
    (theirs,) = maps.teachers_NChw
    assert theirs.dtype == torch.float32
    assert not theirs.requires_grad
    assert maps.size == (5, 3)
    assert maps.label_NHW is not None
    assert maps.mask_NHW is not None
    assert torch.equal(maps.mask_NHW, maps.label_NHW != 255)
    assert maps.mask_NHW.shape == (2, 5, 3)


def test_no_labels_no_mask() -> None:
    loss = Seen(resolution='student')
    loss(*random_maps())
    assert loss.maps.mask_NHW is None
    assert loss.maps.label_NHW is None


@pytest.mark.parametrize('kind', [KLLoss, CDLoss, CGDLoss])
def test_distributions_of_several_teachers_are_averaged(kind: Any) -> None:
    student, teacher = random_maps()
    loss = kind(resolution='student')
    torch.testing.assert_close(loss(student, [teacher, teacher]), loss(student, teacher))


@pytest.mark.parametrize(('kind', 'count'), [(ATLoss, 2), (IFVDLoss, 2), (ATLoss, 0), (KLLoss, 0)])
def test_a_loss_of_one_teacher_takes_one(kind: Any, count: int) -> None:
    student, teacher = random_maps()
    with pytest.raises(ValueError, match=f'{kind.__name__} must have .* one teacher, got {count}'):
        kind()(student, [teacher] * count, random_label((3, 4)))


@pytest.mark.parametrize('tau', [1.0, 4.0])
@pytest.mark.parametrize('ignore_index', [None, 255])
def test_one_channel_is_a_sigmoid(tau: float, ignore_index: int | None) -> None:
    student, teacher = (x[:, :1].detach() for x in random_maps((3, 4), (5, 3)))
    student.requires_grad_()
    label = random_label(SIZE)
    loss = KLLoss(tau=tau, ignore_index=ignore_index)(student, teacher, label)
    s, t = (torch.sigmoid(plain_resize(x, SIZE)[:, 0] / tau) for x in (student, teacher))
    expected_NHW = t * (t / s).log() + (1 - t) * ((1 - t) / (1 - s)).log()
    counted_NHW = torch.ones_like(label, dtype=torch.bool) if ignore_index is None else label != 255
    expected = expected_NHW[counted_NHW].mean()
    torch.testing.assert_close(loss, expected)
    assert loss > 1e-3
    (found,) = torch.autograd.grad(loss, student, retain_graph=True)
    (gradient,) = torch.autograd.grad(expected, student)
    torch.testing.assert_close(found, gradient)
    own = dict(tau=tau, resolution='label', ignore_index=ignore_index)
    at_loss = ATLoss(attention_weight=0.0, **own)(student, teacher, label)
    ifvd_loss = IFVDLoss(num_classes=2, variation_weight=0.0, **own)(student, teacher, label)
    torch.testing.assert_close(at_loss, expected)
    torch.testing.assert_close(ifvd_loss, expected)
