"""The student's own loss without scores at the size of the labels."""

from __future__ import annotations

import torch
from torch import Tensor

from mmseg_kd.losses.kernels import dispatch
from mmseg_kd.losses.kernels.eager import eager


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
    backend = dispatch.backend_of(score_NChw)
    with torch.autocast(score_NChw.device.type, enabled=False):
        sums: tuple[Tensor, Tensor] = backend.cross_entropy_sums(
            score_NChw, label_NHW, class_weight_C, ignore_index, align_corners
        )
        return sums
