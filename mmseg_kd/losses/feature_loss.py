"""Distances between features."""

from __future__ import annotations

from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor

from mmseg_kd.checks import non_negative, one_of
from mmseg_kd.losses.feature_map_loss import FeatureMapLoss, Resolution
from mmseg_kd.losses.functional import standardise, unit_length
from mmseg_kd.registry import KD_LOSSES

Distance = Literal['squared', 'smooth_l1', 'cosine']
Normalisation = Literal['pixel', 'channel']


@KD_LOSSES.register_module()
class FeatureLoss(FeatureMapLoss):
    r"""Distance of the student's features from the teacher's, position by position.

    .. math:: L = \frac{1}{NC|\Omega|} \sum_{n,c,i} d(\hat f^S_{nci}, \hat f^T_{nci})
        \quad \text{or} \quad
        L = \frac{1}{N|\Omega|} \sum_{n,i} \left( 1 - \cos(\hat f^S_{n \cdot i},
        \hat f^T_{n \cdot i}) \right)

    with the squared difference or its smooth L1 norm for d, the cosine between the channels of a
    position, and f-hat the features as they are or normalised.

    Taps: features of any layer, most often the last stage of the backbones or what the head puts
    before its classifier; where their channels differ, the term's connector is the paper's
    regressor.

    Choose it as the plain method on features, at equal wall-clock time among the best published
    (arXiv 2604.25530), and with the cosine for maps of tokens, whose lengths say little.

    Args:
        distance: 'squared', 'smooth_l1' or 'cosine'.
        student_norm, teacher_norm: What is done with the features of a side before: 'pixel', the
            channels of each position get length 1; 'channel', each channel gets mean 0 and
            variance 1 over the positions of the batch; None: nothing.
        beta: Of 'smooth_l1', >= 0: the difference below which it is a square. With 0 it is the
            absolute difference.
        resolution: As in `FeatureMapLoss`.

    Raises:
        ValueError: An argument is out of its range.

    Reference: Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015, arXiv 1412.6550, eq. 3
    (there a sum with the factor 1/2).
    """

    def __init__(
        self,
        distance: Distance = 'squared',
        student_norm: Normalisation | None = None,
        teacher_norm: Normalisation | None = None,
        beta: float = 1.0,
        resolution: Resolution = 'student',
    ) -> None:
        super().__init__(resolution)
        norms = (None, *get_args(Normalisation))
        self.kind = one_of('distance', distance, get_args(Distance))
        self.student_norm = one_of('student_norm', student_norm, norms)
        self.teacher_norm = one_of('teacher_norm', teacher_norm, norms)
        self.beta = non_negative('beta', beta)

    def distance(
        self, student_NChw: Tensor, teacher_NChw: Tensor, label_NHW: Tensor | None
    ) -> Tensor:
        student_NChw = _normalised(student_NChw, self.student_norm)
        teacher_NChw = _normalised(teacher_NChw, self.teacher_norm)
        if self.kind == 'squared':
            return F.mse_loss(student_NChw, teacher_NChw)
        if self.kind == 'smooth_l1':
            return F.smooth_l1_loss(student_NChw, teacher_NChw, beta=self.beta)
        cosine_Nhw = (unit_length(student_NChw) * unit_length(teacher_NChw)).sum(1)
        return 1 - cosine_Nhw.mean()

    def extra_repr(self) -> str:
        return f'distance={self.kind!r}, {super().extra_repr()}'


def _normalised(x_NChw: Tensor, norm: Normalisation | None) -> Tensor:
    if norm is None:
        return x_NChw
    return unit_length(x_NChw) if norm == 'pixel' else standardise(x_NChw)
