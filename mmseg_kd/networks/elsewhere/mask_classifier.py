"""Mask classifiers: from masks and their classes to scores of each pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_kd.networks.elsewhere.module_segmentor import ScoreHead

# Below it a class is as good as impossible, and its logarithm is not left to grow.
SMALLEST = 1e-7


def semantic_map(
    class_NQK: Tensor, mask_NQhw: Tensor, mask_size: Sequence[int] | None = None
) -> Tensor:
    """For each pixel and class: sum over the queries of p(class) times p(pixel in the mask).

    MaskFormer (Cheng et al., Per-Pixel Classification is Not All You Need for Semantic
    Segmentation, NeurIPS 2021, arXiv 2107.06278, section 3.4). The class "none" takes part in the
    softmax alone, so that the values of a pixel are in [0, Q] and do not sum to 1. Nothing of the
    size queries x classes x pixels is held.

    Args:
        class_NQK: Logits of each query's class; the last class is "none".
        mask_NQhw: Logits of each query's mask.
        mask_size: Height and width that the masks' logits are brought to; None: as they are.

    Shape:
        - the result: (N, K - 1, h, w), or of `mask_size`, float32 at least.
    """
    if mask_size is not None:
        mask_NQhw = F.interpolate(mask_NQhw, tuple(mask_size), mode='bilinear', align_corners=False)
    with torch.autocast(mask_NQhw.device.type, enabled=False):
        dtype = torch.promote_types(mask_NQhw.dtype, torch.float32)
        class_NQC = class_NQK.to(dtype).softmax(-1)[..., :-1]
        inside_NQP = mask_NQhw.to(dtype).sigmoid().flatten(2)
        semantic_NCP: Tensor = class_NQC.transpose(1, 2) @ inside_NQP
        return semantic_NCP.reshape(*semantic_NCP.shape[:2], *mask_NQhw.shape[-2:])


def log_semantic_map(semantic_NChw: Tensor) -> Tensor:
    """A semantic map as log-probabilities, up to a number for each pixel that a softmax drops."""
    return semantic_NChw.clamp(min=SMALLEST).log()


@MODELS.register_module()
class MaskScoreHead(ScoreHead):
    """A `ScoreHead` of log-probabilities; what it predicts are probabilities, scaled as such."""

    predicts_probabilities = True

    def predict_by_feat(
        self, seg_logits: Tensor, batch_img_metas: Sequence[Mapping[str, Any]]
    ) -> Tensor:
        """The semantic map at the size of the images, as mask classifiers have it."""
        scores_NCHW: Tensor = super().predict_by_feat(seg_logits.exp(), batch_img_metas)
        return scores_NCHW
