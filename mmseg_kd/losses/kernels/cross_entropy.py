"""Cross-entropy and accuracy of interpolated scores, by any backend.

Shapes: N images, C channels, h x w the scores' own size, H x W that of the labels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmseg_kd.losses.kernels.backend import Backend
from mmseg_kd.losses.kernels.divergence import OnceDifferentiable
from mmseg_kd.losses.kernels.interpolation import full_precision


class CrossEntropy(torch.autograd.Function):
    """The sum of the pixels' cross-entropy, and how many pixels are classified as labelled."""

    @staticmethod
    @full_precision()
    def forward(
        ctx: Any,
        score_NChw: Tensor,
        label_NHW: Tensor,
        backend: Backend,
        class_weight_C: Tensor | None,
        ignore_index: int,
    ) -> tuple[Tensor, Tensor]:
        n, _, h, w = score_NChw.shape
        assert len(label_NHW) == n
        dtype = torch.promote_types(score_NChw.dtype, torch.float32)
        if class_weight_C is not None:
            class_weight_C = class_weight_C.to(score_NChw.device, dtype)
        to = [(h, w)] if ctx.needs_input_grad[0] else []
        total, correct, gradients = backend.cross_entropy(
            score_NChw, label_NHW, class_weight_C, ignore_index, to
        )
        ctx.save_for_backward(*gradients, score_NChw)
        ctx.mark_non_differentiable(correct)
        return total.to(dtype), correct

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        gradient_NChw, score_NChw = ctx.saved_tensors
        # In float32 until the factor of a gradient scaler is in: float16 loses small numbers.
        gradient_NChw = (gradient_NChw * grad).to(score_NChw.dtype)
        return OnceDifferentiable.apply(gradient_NChw, score_NChw), *[None] * 4
