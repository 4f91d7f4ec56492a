from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import plain_divergence, plain_resize, random_label, random_maps, value_and_gradient
from torch import Tensor

from mmseg_kd.losses import BoundaryLoss, KLLoss
from mmseg_kd.losses.boundary_loss import near_edge


def plain_edge(label: Tensor, distance: int, keep: Tensor) -> Tensor:
    found = torch.zeros_like(keep)
    height, width = label.shape[1:]
    for n, i, j in keep.nonzero().tolist():
        for y in range(max(i - distance, 0), min(i + distance + 1, height)):
            for x in range(max(j - distance, 0), min(j + distance + 1, width)):
                found[n, i, j] |= keep[n, y, x] & (label[n, y, x] != label[n, i, j])
    return found


@pytest.mark.parametrize('distance', [1, 2])
def test_near_edge(distance: int) -> None:
    label = random_label((4, 5)).repeat_interleave(4, 1).repeat_interleave(4, 2)
    keep = label != 255
    found = near_edge(label, distance, keep)
    assert torch.equal(found & keep, plain_edge(label, distance, keep))
    assert 0 < (found & keep).sum() < keep.sum()
    everywhere = torch.ones_like(keep)
    assert torch.equal(near_edge(label, distance), plain_edge(label, distance, everywhere))


def test_an_edge_by_hand() -> None:
    label = torch.tensor([[[0, 0, 0, 0, 1, 1, 255, 2, 2, 2]]])
    near = near_edge(label, 1, label != 255)[label != 255].int().tolist()
    # The ignored pixel is no edge, and at this distance hides the one behind it.
    assert near == [0, 0, 0, 1, 1, 0, 0, 0, 0]
    near = near_edge(label, 2, label != 255)[label != 255].int().tolist()
    assert near == [0, 0, 1, 1, 1, 1, 1, 0, 0]


@pytest.mark.parametrize('ignore_index', [None, 255])
@pytest.mark.parametrize('resolution', ['label', 'student'])
def test_formula(resolution: Any, ignore_index: int | None) -> None:
    student, teacher = random_maps((6, 8), (5, 3))
    label = random_label((2, 3)).repeat_interleave(6, 1).repeat_interleave(5, 2)
    size = (12, 15) if resolution == 'label' else (6, 8)
    loss = BoundaryLoss(
        2.0, 0.5, distance=1, tau=2.0, resolution=resolution, ignore_index=ignore_index
    )
    at_size = torch.nn.functional.interpolate(label[:, None].double(), size)[:, 0].long()
    keep = torch.ones_like(at_size, dtype=torch.bool) if ignore_index is None else at_size != 255
    edge = plain_edge(at_size, 1, keep)

    def plain(student: Tensor) -> Tensor:
        s, t = (plain_resize(x, size) for x in (student, teacher))
        parts = [
            torch.stack(
                [plain_divergence(s[n, :, i, j], t[n, :, i, j], 2.0) for n, i, j in at.tolist()]
            ).mean()
            for at in (edge.nonzero(), (keep & ~edge).nonzero())
        ]
        return 2.0 * parts[0] + 0.5 * parts[1]

    torch.testing.assert_close(
        value_and_gradient(loss, student, teacher, label),
        value_and_gradient(plain, student),
        rtol=1e-10,
        atol=1e-14,
    )


def test_without_an_edge_it_is_the_divergence() -> None:
    student, teacher = random_maps()
    label = torch.zeros(2, 7, 9, dtype=torch.long)
    torch.testing.assert_close(
        BoundaryLoss(edge_weight=9.0, tau=2.0)(student, teacher, label),
        KLLoss(tau=2.0)(student, teacher, label),
    )


def test_labels_are_needed() -> None:
    with pytest.raises(ValueError, match='BoundaryLoss needs labels'):
        BoundaryLoss(resolution='student')(*random_maps())


def test_edges_are_there_where_the_teacher_is_unsure() -> None:
    label = torch.zeros(1, 1, 8, dtype=torch.long)
    label[..., 4:] = 1
    student, _ = random_maps((1, 8), channels=2, images=1)
    teacher = torch.stack([5.0 - 10.0 * label, 10.0 * label - 5.0], dim=1)
    teacher[..., 3:5] = 0.0  # at the edge
    loss = BoundaryLoss(distance=2, body_weight=0.0, min_confidence=0.9)
    # The sure pixels beside the edge are near it still.
    assert loss(student, teacher, label) > 0
