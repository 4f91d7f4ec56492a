"""Cross-image relational distillation, between the images of a batch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from mmseg_kd.checks import at_least_one, positive
from mmseg_kd.losses.feature_map_loss import FeatureMapLoss, Resolution
from mmseg_kd.losses.functional import similarity_kl, unit_length
from mmseg_kd.registry import KD_LOSSES


@KD_LOSSES.register_module()
class CIRKDLoss(FeatureMapLoss):
    r"""KL divergence between what each pixel is like, in its own image and in every other one.

    .. math:: L = \frac{1}{N^2 P} \sum_{m,l=1}^{N} \sum_{i=1}^{P} \sum_{j=1}^{P}
        r^T_{mlij} \log \frac{r^T_{mlij}}{r^S_{mlij}},
        \quad r_{mli\cdot} = \mathrm{softmax}( \cos(f_{mi}, f_{l\cdot}) / \tau )

    over all ordered pairs of the N images of a batch, on each rank its own, and their P pixels.
    Student and teacher may have different numbers of channels. The matrices of all pixels are
    never held as a whole; time is quadratic in N P.

    Taps: features with context in them; the paper takes what a head puts before its classifier.

    Choose it where a GPU has several images at a time and the teacher's feature space is worth more
    than its scores; `CIRKDMemoryLoss` goes with it.

    Args:
        tau: Temperature, > 0.
        pool: Average the features over patches of so many positions a side before.
        resolution: As in `FeatureMapLoss`.

    Raises:
        ValueError: An argument is out of its range.

    Reference: Yang et al., Cross-Image Relational Knowledge Distillation for Semantic Segmentation,
    CVPR 2022, arXiv 2204.06986, section 3, with weight 1 and tau 0.1.
    """

    needs_same_channels = False

    def __init__(self, tau: float = 0.1, pool: int = 1, resolution: Resolution = 'student') -> None:
        super().__init__(resolution)
        self.tau = positive('tau', tau)
        self.pool = at_least_one('pool', pool)

    def distance(
        self, student_NChw: Tensor, teacher_NChw: Tensor, label_NHW: Tensor | None
    ) -> Tensor:
        student_NPC, teacher_NPC = self._pixels(student_NChw), self._pixels(teacher_NChw)
        images = len(student_NPC)
        flat = [x_NPC.flatten(0, 1) for x_NPC in (student_NPC, teacher_NPC)]
        total = similarity_kl(*flat, *flat, tau=self.tau, groups=images)
        return total / (len(flat[0]) * images)

    def _pixels(self, x_NChw: Tensor) -> Tensor:
        if self.pool > 1:
            x_NChw = F.avg_pool2d(x_NChw, self.pool, ceil_mode=True)
        return unit_length(x_NChw).flatten(2).mT
