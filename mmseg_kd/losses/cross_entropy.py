"""The student's own loss without scores at the size of the labels."""

from __future__ import annotations

from collections.abc import Sequence
from types import MethodType
from typing import Any

import torch
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.losses import CrossEntropyLoss
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmseg_kd.losses.functional import at_least_float32
from mmseg_kd.losses.interpolation import Resizing, full_precision
from mmseg_kd.losses.piecewise import OnceDifferentiable, piece_values, pieces, to_wCh


class _CrossEntropy(torch.autograd.Function):
    """The sum of the pixels' cross-entropy, and how many pixels are classified as labelled."""

    @staticmethod
    @full_precision()
    def forward(
        ctx: Any,
        score_NChw: Tensor,
        label_NHW: Tensor,
        class_weight_C: Tensor | None,
        ignore_index: int,
        align_corners: bool,
    ) -> tuple[Tensor, Tensor]:
        n, c, h, w = score_NChw.shape
        size = (label_NHW.shape[1], label_NHW.shape[2])
        resize = Resizing((h, w), size, score_NChw, align_corners)
        score_NwCh = to_wCh(score_NChw)
        gradient_NwCh = torch.zeros_like(score_NwCh) if ctx.needs_input_grad[0] else None
        total = score_NChw.new_zeros((), dtype=torch.float64)
        correct = torch.zeros((), dtype=torch.long, device=score_NChw.device)
        for image in range(n):
            for rows, columns in pieces(c, size, piece_values(score_NChw.device)):
                label_V1R = label_NHW[image, rows, columns].T[:, None]
                is_ignored_V1R = label_V1R == ignore_index
                label_V1R = label_V1R.masked_fill(is_ignored_V1R, 0)
                score_VCR = resize.piece(score_NwCh[image], rows, columns)
                largest_V1R, class_V1R = score_VCR.max(1, keepdim=True)
                correct += ((class_V1R == label_V1R) & ~is_ignored_V1R).sum()
                score_VCR -= largest_V1R
                own_V1R = score_VCR.gather(1, label_V1R)
                p_VCR = score_VCR.exp_()
                sum_V1R = p_VCR.sum(1, keepdim=True)
                loss_V1R = sum_V1R.log() - own_V1R
                weight_V1R = torch.ones_like(loss_V1R)
                if class_weight_C is not None:
                    weight_V1R = class_weight_C[label_V1R]
                weight_V1R.masked_fill_(is_ignored_V1R, 0.0)
                # Where a pixel is ignored its loss may be anything, NaN times 0 included.
                loss_V1R.masked_fill_(is_ignored_V1R, 0.0)
                total += (loss_V1R * weight_V1R).sum(dtype=torch.float64)
                if gradient_NwCh is not None:
                    p_VCR *= weight_V1R / sum_V1R
                    p_VCR.scatter_add_(1, label_V1R, -weight_V1R)
                    p_VCR.masked_fill_(is_ignored_V1R, 0.0)
                    resize.add_transposed(p_VCR, rows, columns, gradient_NwCh[image])
        if gradient_NwCh is not None:
            ctx.save_for_backward(gradient_NwCh.permute(0, 2, 3, 1), score_NChw)
        ctx.mark_non_differentiable(correct)
        return total.to(score_NChw.dtype), correct

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        gradient_NChw, score_NChw = ctx.saved_tensors
        gradient_NChw = OnceDifferentiable.apply(gradient_NChw * grad, score_NChw)
        return gradient_NChw, None, None, None, None


def cross_entropy_sums(
    score_NChw: Tensor,
    label_NHW: Tensor,
    class_weight_C: Tensor | None = None,
    ignore_index: int = 255,
    align_corners: bool = False,
) -> tuple[Tensor, Tensor]:
    """The sum of the cross-entropy over the pixels, and how many have their label's score largest.

    Args:
        score_NChw: Class scores; brought to the labels' size by bilinear interpolation.
        label_NHW: Class indices.
        class_weight_C: A factor of the loss for each class; None: 1.
        ignore_index: Pixels with this label count for neither.
        align_corners: As in torch.nn.functional.interpolate.

    Returns:
        A scalar of at least float32, with gradient to the scores, and a whole number.
    """
    with torch.autocast(score_NChw.device.type, enabled=False):
        score_NChw = at_least_float32(score_NChw)
        if class_weight_C is not None:
            class_weight_C = class_weight_C.to(score_NChw)
        total, correct = _CrossEntropy.apply(
            score_NChw, label_NHW, class_weight_C, ignore_index, align_corners
        )
        return total, correct


@MODELS.register_module()
class FusedCrossEntropyLoss(CrossEntropyLoss):
    """mmseg's `CrossEntropyLoss` over classes in pieces, with the same value and gradient.

    The scores may come at any size: they are interpolated piece by piece, so that none of the
    copies at the labels' size that the formula makes is ever held.

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
        """The loss; what it cannot compute in pieces is left to mmseg.

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
            avg_factor = class_weight_C[label_NHW[counted_NHW]].sum()
        else:
            avg_factor = counted_NHW.sum() if loss.avg_non_ignore else label_NHW.numel()
    # As mmseg, whose labels may all be ignored.
    eps = torch.finfo(torch.float32).eps
    return loss.loss_weight * total / (avg_factor + eps), correct


def fuse_task_loss(network: nn.Module) -> list[str]:
    """Let the heads of `network` compute cross-entropy and accuracy in pieces.

    Heads with a loss of another kind, with a sampler of pixels, or with a way of their own to
    compute their losses stay as they are. What they log is the same.

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
    losses = head.loss_decode
    return list(losses) if isinstance(losses, nn.ModuleList) else [losses]


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
