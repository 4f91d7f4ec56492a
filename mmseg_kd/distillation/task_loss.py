"""The student's own losses, its cross-entropy without scores at the size of the labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import MethodType
from typing import Any

import torch
from mmseg.models.decode_heads.cascade_decode_head import BaseCascadeDecodeHead
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.losses import CrossEntropyLoss
from mmseg.registry import MODELS
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from mmseg_kd.errors import ConfigError, Problems
from mmseg_kd.losses.cross_entropy import cross_entropy_sums
from mmseg_kd.losses.functional import at_least_float32


@MODELS.register_module()
class FusedCrossEntropyLoss(CrossEntropyLoss):
    """mmseg's `CrossEntropyLoss` over classes in less memory, with the same value and gradient.

    The scores may come at any size: none of the copies at the labels' size that the formula makes
    is ever held.

    Args:
        class_weight, loss_weight, loss_name, avg_non_ignore: As in `CrossEntropyLoss`.

    Raises:
        ValueError: An argument of `CrossEntropyLoss` that this one does not have is set.
    """

    def __init__(
        self,
        class_weight: Sequence[float] | str | None = None,
        loss_weight: float = 1.0,
        loss_name: str = 'loss_ce',
        avg_non_ignore: bool = False,
        use_sigmoid: bool = False,
        use_mask: bool = False,
        reduction: str = 'mean',
    ) -> None:
        if use_sigmoid or use_mask or reduction != 'mean':
            raise ValueError(
                'FusedCrossEntropyLoss is the mean of a softmax cross-entropy; take '
                'CrossEntropyLoss for use_sigmoid, use_mask and other reductions.'
            )
        super().__init__(
            class_weight=class_weight,
            loss_weight=loss_weight,
            loss_name=loss_name,
            avg_non_ignore=avg_non_ignore,
        )

    def forward(
        self,
        cls_score: Tensor,
        label: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
        ignore_index: int = -100,
        **kwargs: Any,
    ) -> Tensor:
        """The loss; what it cannot compute so is left to mmseg.

        Shape:
            - cls_score: (N, C, h, w).
            - label: (N, H, W).
        """
        if weight is not None or reduction_override not in (None, 'mean') or kwargs:
            plain: Tensor = super().forward(
                cls_score, label, weight, avg_factor, reduction_override, ignore_index, **kwargs
            )
            return plain
        loss, _ = _mean_with_correct(self, cls_score, label, ignore_index, False, avg_factor)
        return loss


def _mean_with_correct(
    loss: Any,
    score_NChw: Tensor,
    label_NHW: Tensor,
    ignore_index: int,
    align_corners: bool,
    avg_factor: float | Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The mean that an mmseg `CrossEntropyLoss` takes, and the pixels classified as labelled."""
    class_weight_C: Tensor | None = None
    if loss.class_weight is not None:
        class_weight_C = at_least_float32(score_NChw).new_tensor(loss.class_weight)
    total, correct = cross_entropy_sums(
        score_NChw, label_NHW, class_weight_C, ignore_index, align_corners
    )
    if avg_factor is None:
        counted_NHW = label_NHW != ignore_index
        if class_weight_C is not None:
            # Not the counted ones alone: on a GPU the host would wait for their number.
            weight_NHW = class_weight_C[label_NHW.masked_fill(~counted_NHW, 0)]
            avg_factor = weight_NHW.masked_fill_(~counted_NHW, 0.0).sum()
        else:
            avg_factor = counted_NHW.sum() if loss.avg_non_ignore else label_NHW.numel()
    # As mmseg, whose labels may all be ignored.
    eps = torch.finfo(torch.float32).eps
    return loss.loss_weight * total / (avg_factor + eps), correct


def check_class_weights(network: nn.Module, side: str) -> None:
    """See that the losses of a network's heads weight as many classes as the heads score.

    Args:
        network: A segmentor.
        side: What messages call it.

    Raises:
        ConfigError: One does not; `ManyErrors` where that is more than one.
    """
    problems = Problems()
    for name, head in network.named_modules():
        if not isinstance(head, BaseDecodeHead):
            continue
        for loss in _losses_of(head):
            weights = getattr(loss, 'class_weight', None)
            if isinstance(weights, Sequence) and len(weights) != head.out_channels:
                problems.add(
                    f'{side}: {name}.loss_decode: {type(loss).__name__}: class_weight: '
                    f'expected {head.out_channels} values, one for each channel of the '
                    f'scores, got {len(weights)}.'
                )
    problems.raise_if_any()


def fuse_task_loss(network: nn.Module) -> list[str]:
    """Let the heads of `network` compute their losses without scores at the labels' size.

    These are cross-entropy and accuracy. Heads with a loss of another kind, with a sampler of
    pixels, or with a way of their own to compute their losses stay as they are. What they log is
    the same.

    Returns:
        The names of the heads that were changed.
    """
    fused = []
    for name, head in network.named_modules():
        if isinstance(head, BaseDecodeHead) and _can_be_fused(head):
            head.loss_by_feat = MethodType(_loss_by_feat, head)
            fused.append(name)
    return fused


def _can_be_fused(head: Any) -> bool:
    return (
        type(head).loss_by_feat is BaseDecodeHead.loss_by_feat
        and head.sampler is None
        and head.out_channels > 1
        and all(
            type(loss) in (CrossEntropyLoss, FusedCrossEntropyLoss)
            and not (loss.use_sigmoid or loss.use_mask)
            and loss.reduction == 'mean'
            for loss in _losses_of(head)
        )
    )


def _losses_of(head: Any) -> Sequence[Any]:
    # KNet's iterative head has none: what it is made of does the losses.
    losses = getattr(head, 'loss_decode', ())
    return list(losses) if isinstance(losses, (nn.ModuleList, tuple)) else [losses]


def _loss_by_feat(
    head: Any, seg_logits: Tensor, batch_data_samples: Sequence[Any]
) -> dict[str, Tensor]:
    """In the place of `BaseDecodeHead.loss_by_feat`."""
    label_NHW = head._stack_batch_gt(batch_data_samples).squeeze(1)
    entries: dict[str, Tensor] = {}
    correct = torch.zeros((), device=label_NHW.device)
    for loss in _losses_of(head):
        value, correct = _mean_with_correct(
            loss, seg_logits, label_NHW, head.ignore_index, head.align_corners
        )
        entries[loss.loss_name] = entries.get(loss.loss_name, 0.0) + value
    eps = torch.finfo(torch.float32).eps
    counted = (label_NHW != head.ignore_index).sum()
    entries['acc_seg'] = ((correct + eps) * (100.0 / (counted + eps))).reshape(1)
    return entries


@contextmanager
def labelled_only(network: nn.Module, is_labelled: Sequence[bool]) -> Iterator[None]:
    """Inside, the heads of `network` compute their losses of the images that have masks alone.

    Args:
        network: A segmentor.
        is_labelled: Whether an image of the batch has a mask. Where none has, the losses are 0.

    Raises:
        ConfigError: A head has a way of its own to its losses.
    """
    if all(is_labelled):
        yield
        return
    kept = [index for index, one in enumerate(is_labelled) if one]
    heads: list[Any] = [one for one in network.modules() if isinstance(one, BaseDecodeHead)]
    for name in ('decode_head', 'auxiliary_head'):
        own = getattr(network, name, None)
        heads += [
            one
            for one in (own if isinstance(own, nn.ModuleList) else [own])
            if one is not None and one not in heads
        ]
    before = [vars(head).get('loss_by_feat') for head in heads]
    for head in heads:
        usual = (BaseDecodeHead.loss, BaseCascadeDecodeHead.loss)
        if getattr(type(head), 'loss', None) not in usual:
            raise ConfigError(
                f'student: {type(head).__name__} computes its losses in a way of its own, in which '
                'images without masks cannot be left out; take another head, or images with masks.'
            )
    try:
        for head in heads:
            head.loss_by_feat = partial(_of_labelled, head.loss_by_feat, kept, len(is_labelled))
        yield
    finally:
        for head, own in zip(heads, before, strict=True):
            del head.loss_by_feat
            if own is not None:
                head.loss_by_feat = own


def _of_labelled(
    loss_by_feat: Any,
    kept: Sequence[int],
    images: int,
    seg_logits: Any,
    batch_data_samples: Sequence[Any],
) -> dict[str, Tensor]:
    if len(batch_data_samples) != images:
        # A head inside one that has left them out.
        inner: dict[str, Tensor] = loss_by_feat(seg_logits, batch_data_samples)
        return inner
    if not kept:
        # Through all that learns: DDP waits for each gradient. Some losses are NaN without a pixel.
        entries = loss_by_feat(seg_logits, batch_data_samples)
        nothing = sum(one.sum() for one in tree_leaves(seg_logits)) * 0.0
        return {
            name: value * 0.0 if value.numel() and bool(value.isfinite().all()) else nothing
            for name, value in entries.items()
        }
    some = [batch_data_samples[index] for index in kept]
    entries = loss_by_feat(_part(seg_logits, kept), some)
    labelled: dict[str, Tensor] = entries
    return labelled


def _part(scores: Any, kept: Sequence[int]) -> Any:
    """These images of scores, or of several."""
    if isinstance(scores, (list, tuple)):
        return type(scores)(_part(one, kept) for one in scores)
    return scores[list(kept)]
