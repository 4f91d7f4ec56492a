"""The student's own loss without scores at the size of the labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmseg_kd.losses.functional import at_least_float32
from mmseg_kd.losses.kernels.divergence import OnceDifferentiable
from mmseg_kd.losses.kernels.eager import eager
from mmseg_kd.losses.kernels.interpolation import Resizing, full_precision
from mmseg_kd.losses.kernels.piecewise import piece_values, pieces, to_hCw


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
        score_NhCw = to_hCw(score_NChw)
        gradient_NhCw = torch.zeros_like(score_NhCw) if ctx.needs_input_grad[0] else None
        total = score_NChw.new_zeros((), dtype=torch.float64)
        correct = torch.zeros((), dtype=torch.long, device=score_NChw.device)
        for image in range(n):
            for rows, columns in pieces(c, size, piece_values(score_NChw.device)):
                label_R1V = label_NHW[image, rows, columns][:, None]
                is_ignored_R1V = label_R1V == ignore_index
                label_R1V = label_R1V.masked_fill(is_ignored_R1V, 0)
                score_RCV = resize.piece(score_NhCw[image], rows, columns)
                largest_R1V, class_R1V = score_RCV.max(1, keepdim=True)
                correct += ((class_R1V == label_R1V) & ~is_ignored_R1V).sum()
                score_RCV -= largest_R1V
                own_R1V = score_RCV.gather(1, label_R1V)
                p_RCV = score_RCV.exp_()
                sum_R1V = p_RCV.sum(1, keepdim=True)
                loss_R1V = sum_R1V.log() - own_R1V
                weight_R1V = torch.ones_like(loss_R1V)
                if class_weight_C is not None:
                    weight_R1V = class_weight_C[label_R1V]
                weight_R1V.masked_fill_(is_ignored_R1V, 0.0)
                # Where a pixel is ignored its loss may be anything, NaN times 0 included.
                loss_R1V.masked_fill_(is_ignored_R1V, 0.0)
                total += (loss_R1V * weight_R1V).sum(dtype=torch.float64)
                if gradient_NhCw is not None:
                    p_RCV *= weight_R1V / sum_R1V
                    p_RCV.scatter_add_(1, label_R1V, -weight_R1V)
                    p_RCV.masked_fill_(is_ignored_R1V, 0.0)
                    resize.add_transposed(p_RCV, rows, columns, gradient_NhCw[image])
        if gradient_NhCw is not None:
            ctx.save_for_backward(gradient_NhCw.transpose(1, 2), score_NChw)
        ctx.mark_non_differentiable(correct)
        return total.to(score_NChw.dtype), correct

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        gradient_NChw, score_NChw = ctx.saved_tensors
        gradient_NChw = OnceDifferentiable.apply(gradient_NChw * grad, score_NChw)
        return gradient_NChw, None, None, None, None


@eager
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
