"""A batch in which some images have no mask: who learns what of which pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from builders import CLASSES, batch, build, resnet, save_weights, term, wrapper_config
from torch import Tensor

from mmseg_kd.datasets.unlabelled import NO_MASK
from mmseg_kd.distillation.task_loss import labelled_only
from mmseg_kd.distillation.wrapper import NO_CLASS
from mmseg_kd.errors import ConfigError


class Spy(torch.nn.Module):
    """A loss that keeps the labels."""

    def forward(self, student: Tensor, teacher: Tensor, label: Tensor) -> Tensor:
        self.label = label
        return (student - teacher).square().mean()


@pytest.fixture
def wrapper(tmp_path: Path) -> Any:
    save_weights(resnet(8), tmp_path / 'teacher.pth')
    losses = [term(loss=dict(type='CDLoss', ignore_index=255))]
    return build(
        wrapper_config(resnet(4, dropout=0.0), resnet(8), str(tmp_path / 'teacher.pth'), *losses)
    )


def mixed_batch(unlabelled: list[int], sizes: Any = 3) -> dict[str, Any]:
    data = batch(sizes, blank=0.2)
    for index in unlabelled:
        sample = data['data_samples'][index]
        sample.gt_sem_seg.data.fill_(255)
        sample.set_metainfo(dict(seg_map_path=NO_MASK))
    return data


def losses_of(wrapper: Any, data: dict[str, Any]) -> dict[str, Tensor]:
    wrapper.train()
    data = wrapper.data_preprocessor(data, True)
    return wrapper.loss(data['inputs'], data['data_samples'])


@pytest.mark.parametrize('is_fused', [True, False])
def test_task_loss_is_that_of_images_with_masks(wrapper: Any, is_fused: bool) -> None:
    wrapper.train()
    head = wrapper.student.decode_head
    if not is_fused:
        del head.loss_by_feat
    own = head.loss_by_feat
    data = wrapper.data_preprocessor(mixed_batch([1]), True)
    scores = torch.randn(3, CLASSES, 8, 8, requires_grad=True)
    head.conv_seg.forward = lambda _: scores
    mixed = wrapper.loss(data['inputs'], data['data_samples'])
    alone = own(scores[[0, 2]], [data['data_samples'][index] for index in (0, 2)])
    torch.testing.assert_close(mixed['decode.loss_ce'], alone['loss_ce'])
    torch.testing.assert_close(mixed['decode.acc_seg'], alone['acc_seg'])
    assert head.loss_by_feat == own


def test_images_without_masks_alone(wrapper: Any) -> None:
    losses = losses_of(wrapper, mixed_batch([0, 1, 2]))
    assert losses['decode.loss_ce'] == 0
    assert losses['kd.cd'] > 0
    losses['decode.loss_ce'].backward()
    assert all(p.grad is not None for p in wrapper.student.parameters())


# Means over no image, and of no pixel.
@pytest.mark.parametrize('loss', [dict(per_image=True), dict(reduction='none')])
def test_losses_that_are_nan_without_a_pixel(tmp_path: Path, loss: dict[str, Any]) -> None:
    teacher = resnet(8)
    checkpoint = save_weights(teacher, tmp_path / 'teacher.pth')
    student = resnet(4, dropout=0.0)
    student['decode_head']['loss_decode'] = dict(type='LovaszLoss', **loss)
    wrapper = build(wrapper_config(student, teacher, checkpoint, term()))
    assert losses_of(wrapper, mixed_batch([1]))['decode.loss_lovasz'].isfinite().all()
    losses = losses_of(wrapper, mixed_batch([0, 1, 2]))
    assert losses['decode.loss_lovasz'] == 0
    losses['decode.loss_lovasz'].backward()
    gradients = [p.grad for p in wrapper.student.parameters()]
    assert all(one is not None and one.isfinite().all() for one in gradients)


def test_terms_count_their_pixels_and_no_padding(wrapper: Any) -> None:
    ((_, term_of),) = wrapper.terms.items()
    spy = term_of.loss = Spy()
    data = mixed_batch([1], [(32, 32), (20, 24)])
    void = data['data_samples'][0].gt_sem_seg.data[0] == 255
    losses_of(wrapper, data)
    assert torch.equal(spy.label[0] == 255, void)
    assert (spy.label[1, :20, :24] == NO_CLASS).all()
    assert (spy.label[1, 20:] == 255).all()
    assert (spy.label[1, :, 24:] == 255).all()


def test_a_head_with_losses_of_its_own_is_refused() -> None:
    network = build(resnet())
    head = network.decode_head
    head.__class__ = type('Own', (type(head),), {'loss': lambda self: None})
    own = pytest.raises(ConfigError, match='Own computes its losses in a way of its own')
    with own, labelled_only(network, [True, False]):
        pass
    with labelled_only(network, [True, True]):
        pass


def test_a_head_inside_a_head_gets_what_is_left() -> None:
    network = build(resnet())
    head = network.decode_head
    seen = []

    def outer(scores: Any, samples: Any) -> dict[str, Any]:
        return head.inner.loss_by_feat(scores, samples)

    head.inner = build(resnet()).decode_head
    head.inner.loss_by_feat = lambda scores, samples: seen.append((len(scores), samples)) or {}
    head.loss_by_feat = outer
    with labelled_only(network, [False, True]):
        head.loss_by_feat(torch.zeros(2, 5, 4, 4), ['a', 'b'])
    assert seen == [(1, ['b'])]
