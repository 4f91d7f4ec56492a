"""CIRKDLoss, CIRKDMemoryLoss and the queues of the latter."""

from __future__ import annotations

import copy
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import CLASSES, build, resnet, save_weights, term, wrapper_config
from torch import Tensor
from vectors import arrays, cases, check, inputs_of

from mmseg_kd.errors import ConfigError
from mmseg_kd.losses import CIRKDLoss, CIRKDMemoryLoss
from mmseg_kd.losses import functional as losses_functional
from mmseg_kd.losses.class_queues import ClassQueues
from mmseg_kd.losses.functional import resize_label, unit_length


@pytest.mark.parametrize('case', cases('peers.json', 'cross-image pixel-to-pixel*'))
def test_published_values_in_a_batch(case: dict[str, Any]) -> None:
    found = arrays('peers.npz')
    loss = CIRKDLoss(tau=case['tau'])
    inputs = {role: found[role] for role in ('student', 'teacher')}
    check(case, lambda x: loss(x['student'], x['teacher']), inputs)


def test_a_number_worked_out_by_hand() -> None:
    # Two pixels of one image: alike for the teacher, at right angles for the student.
    student = torch.tensor([[3.0, 0.0], [0.0, 5.0]]).view(1, 2, 1, 2)
    teacher = torch.tensor([[2.0, 4.0]]).view(1, 1, 1, 2)
    p = 1 / (1 + math.exp(-1 / 0.5))
    expected = 0.5 * math.log(0.5 / p) + 0.5 * math.log(0.5 / (1 - p))
    value = CIRKDLoss(tau=0.5)(student, teacher)
    torch.testing.assert_close(value.item(), expected, rtol=1e-6, atol=0)


def test_pieces_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, 4, 5, generator=generator, dtype=torch.float64)
    student.requires_grad_()
    loss = CIRKDLoss(pool=2)
    whole = loss(student, teacher)
    monkeypatch.setattr(losses_functional, 'RELATIONS_HELD', 50)
    pieces = loss(student, teacher)
    torch.testing.assert_close(pieces, whole)
    torch.testing.assert_close(
        torch.autograd.grad(pieces, student), torch.autograd.grad(whole, student)
    )


def memory_loss(inputs: dict[str, Tensor], **arguments: Any) -> CIRKDMemoryLoss:
    """A loss with the queues of a case, that draws all of them."""
    classes, pixels, channels = inputs['pixel_queue'].shape
    loss = CIRKDMemoryLoss(
        channels,
        classes,
        in_channels=inputs['student'].shape[1] if 'student' in inputs else None,
        pixel_entries=pixels,
        region_entries=inputs['region_queue'].shape[1],
        **arguments,
    ).to(inputs['teacher'].dtype)
    loss.pixels.queue.copy_(inputs['pixel_queue'])
    loss.regions.queue.copy_(inputs['region_queue'])
    return loss


@pytest.mark.parametrize('case', cases('more.json', 'cirkd_memory_*'))
def test_published_values_of_the_memory(case: dict[str, Any]) -> None:
    is_pixel = 'pixel' in case.get('id', '')

    def value_of(inputs: dict[str, Tensor]) -> Tensor:
        loss = memory_loss(
            inputs,
            pixel_weight=float(is_pixel),
            region_weight=float(not is_pixel),
            tau=case['params']['contrast_temperature'],
            kd_tau=case['params']['contrast_kd_temperature'],
        )
        weights = {
            'projection.0.weight': inputs['w1'],
            'projection.1.weight': inputs['bn_weight'],
            'projection.1.bias': inputs['bn_bias'],
            'projection.3.weight': inputs['w2'],
        }
        return torch.func.functional_call(
            loss, weights, (inputs['student'], inputs['teacher'], inputs['labels'])
        )

    check(case, value_of, inputs_of(case))


@pytest.mark.parametrize('case', cases('more.json', 'cirkd_enqueue'))
def test_published_queues(case: dict[str, Any]) -> None:
    """Regions as the loss files them; pixels from the positions that the authors take.

    These are the first of a permutation of the whole image, cut to as many as the class has.
    """
    inputs, found = inputs_of(case), arrays('more.npz')
    loss = memory_loss(inputs)
    teacher = inputs['teacher']
    loss(torch.zeros_like(teacher), teacher, inputs['labels'])
    expected = {name: found[key] for name, key in case['outputs'].items()}
    torch.testing.assert_close(loss.regions.queue, expected['region_queue_after'])
    assert torch.equal(loss.regions.pointer, expected['region_ptr_after'])

    queues = memory_loss(inputs).pixels
    label = resize_label(inputs['labels'], (teacher.shape[2], teacher.shape[3]))
    rows, blocks = [], []
    for image, of_image in zip(unit_length(teacher).flatten(2).mT, label, strict=True):
        for k in range(loss.num_classes):
            taken = min(int((of_image == k).sum()), case['params']['pixel_update_freq'])
            if taken:
                rows.append(image[:taken])
                blocks.append((k, taken))
    queues.file(torch.cat(rows), torch.tensor(blocks))
    torch.testing.assert_close(queues.queue, expected['pixel_queue_after'])
    assert torch.equal(queues.pointer, expected['pixel_ptr_after'])


def small_loss(**arguments: Any) -> CIRKDMemoryLoss:
    torch.manual_seed(0)
    options = dict(pixel_entries=6, region_entries=4, pixels_per_image=3, **arguments)
    return CIRKDMemoryLoss(4, 3, **options)


def test_what_is_filed_under_a_class_belongs_to_it() -> None:
    loss = small_loss()
    label = torch.tensor([[0, 1, 1, 255], [1, 1, 0, 2]]).view(1, 2, 4)
    # A channel for each class, so that an entry shows what it is of.
    teacher = torch.eye(4)[label.clamp(max=3)].permute(0, 3, 1, 2)
    loss(torch.randn(1, 4, 2, 4), teacher, label)
    assert loss.pixels.pointer.tolist() == [2, 3, 1]
    assert loss.regions.pointer.tolist() == [1, 1, 1]
    for k, filed in enumerate((2, 3, 1)):
        assert torch.equal(loss.pixels.queue[k, :filed], torch.eye(4)[[k] * filed])
        assert torch.equal(loss.regions.queue[k, 0], torch.eye(4)[k])


def test_pixels_are_drawn_at_random_and_without_repetition() -> None:
    teacher = torch.rand(1, 4, 3, 3) + 0.1
    label = torch.zeros(1, 3, 3, dtype=torch.long)
    pixels = {tuple(row) for row in unit_length(teacher)[0].flatten(1).T.tolist()}
    taken = []
    for seed in range(3):
        loss = small_loss()
        torch.manual_seed(seed)
        loss(teacher, teacher, label)
        filed = {tuple(row) for row in loss.pixels.queue[0, :3].tolist()}
        assert len(filed) == 3
        assert filed <= pixels
        taken.append(filed)
    assert len(set(map(frozenset, taken))) > 1


def test_nothing_is_filed_but_in_training() -> None:
    loss = small_loss().eval()
    before = copy.deepcopy(loss.state_dict())
    loss(torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3), torch.zeros(2, 3, 3, dtype=torch.long))
    assert all(torch.equal(value, before[key]) for key, value in loss.state_dict().items())


def test_a_batch_is_compared_before_it_is_filed() -> None:
    student, teacher = torch.randn(2, 1, 4, 3, 3)
    label = torch.ones(1, 3, 3, dtype=torch.long)
    loss = small_loss()
    fresh = copy.deepcopy(loss).eval()
    assert torch.equal(loss(student, teacher, label), fresh(student, teacher, label))
    assert loss.regions.pointer.tolist() == [0, 1, 0]


def test_a_block_that_meets_the_end_of_a_queue_goes_before_it() -> None:
    queues = ClassQueues(1, 5, 1)
    for block in ([1.0, 2.0, 3.0], [4.0], [5.0, 6.0]):
        queues.file(torch.tensor(block)[:, None], torch.tensor([[0, len(block)]]))
    assert queues.queue.flatten().tolist() == [1.0, 2.0, 3.0, 5.0, 6.0]
    assert queues.pointer.tolist() == [0]


def test_of_two_rows_for_one_place_the_last_stays() -> None:
    queues = ClassQueues(1, 2, 1)
    queues.file(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[0, 1]] * 3))
    assert queues.queue.flatten().tolist() == [3.0, 2.0]


def test_as_many_entries_of_each_class_are_drawn() -> None:
    queues = ClassQueues(3, 10, 1)
    queues.queue.copy_(torch.arange(30).view(3, 10, 1))
    entries = queues.draw(7).flatten().long()
    assert entries.numel() == 9
    places = entries.view(3, 3)
    assert torch.equal(places // 10, torch.arange(3)[:, None].expand(3, 3))
    assert torch.equal(places % 10, (places % 10)[:1].expand(3, 3))
    assert len(set(places[0].tolist())) == 3


@pytest.mark.parametrize(
    ('channels', 'label', 'message'),
    [
        ((5, 4), 0, "in_channels=4, but the student's map has 5 channels; write in_channels=5."),
        ((4, 6), 0, "channels=4, but the teacher's map has 6 channels; write channels=6."),
        ((4, 4), 3, 'label 3 is none of num_classes=3, nor ignore_index=255.'),
        ((4, 4), None, 'needs labels'),
    ],
)
def test_what_does_not_fit_the_arguments(
    channels: tuple[int, int], label: int | None, message: str
) -> None:
    maps = [torch.randn(1, c, 2, 2) for c in channels]
    labels = None if label is None else torch.full((1, 2, 2), label)
    with pytest.raises(ValueError, match=re.escape(message)):
        small_loss()(*maps, labels)


@pytest.mark.parametrize(
    ('argument', 'value'),
    [('tau', 0.0), ('kd_tau', -1), ('pixel_weight', -1.0), ('pixel_draws', 0), ('channels', 0)],
)
def test_wrong_argument(argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f'{argument}.*{re.escape(repr(value))}'):
        CIRKDMemoryLoss(**{'channels': 4, 'num_classes': 3, argument: value})


def test_channels_that_a_term_does_not_have_are_told_at_build(tmp_path: Path) -> None:
    loss = dict(type='CIRKDMemoryLoss', channels=16, num_classes=CLASSES)
    layer = 'backbone.layer1'
    teacher = resnet(8)
    checkpoint = save_weights(teacher, tmp_path / 'teacher.pth')
    cfg = wrapper_config(resnet(4), teacher, checkpoint, term(layer, layer, loss))
    with pytest.raises(ConfigError, match=r'distillation\[0\].*CIRKDMemoryLoss.*write channels=8'):
        build(cfg)
