"""Distillation by Pearson correlation."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from mmseg_kd.losses.feature_map_loss import FeatureMapLoss
from mmseg_kd.losses.functional import standardise
from mmseg_kd.registry import KD_LOSSES


@KD_LOSSES.register_module()
class PKDLoss(FeatureMapLoss):
    r"""How far the channels of student and teacher are from correlated, over the batch.

    .. math:: L = \frac{1}{2NC|\Omega|} \sum_{n,c,i} \left( \hat f^S_{nci}
        - \hat f^T_{nci} \right)^2 \approx 1 - \frac{1}{C} \sum_c r(f^S_c, f^T_c)

    with f-hat the features whose channels have mean 0 and variance 1 over the positions of the
    batch, and r Pearson's correlation: level and scale of a channel do not matter. The variance is
    that of the images of one rank.

    Taps: features; the paper takes each level of the neck (FPN) of both detectors, each pair a
    term of its own.

    Choose it between networks whose features differ in scale, such as a convolutional student and
    a transformer.

    Args:
        resolution: As in `FeatureMapLoss`; the authors compare at the teacher's.

    Raises:
        ValueError: An argument is out of its range.

    Reference: Cao et al., PKD: General Distillation Framework for Object Detectors via Pearson
    Correlation Coefficient, NeurIPS 2022, arXiv 2207.02039, section 3.
    """

    def distance(
        self, student_NChw: Tensor, teacher_NChw: Tensor, label_NHW: Tensor | None
    ) -> Tensor:
        return F.mse_loss(standardise(student_NChw), standardise(teacher_NChw)) / 2
