"""Similarities between channels."""

from __future__ import annotations

from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor

from mmseg_kd.checks import at_least_one, one_of, positive
from mmseg_kd.losses.feature_map_loss import FeatureMapLoss, Resolution
from mmseg_kd.losses.functional import unit_length
from mmseg_kd.registry import KD_LOSSES

Similarity = Literal['distribution', 'cosine']


@KD_LOSSES.register_module()
class CSDLoss(FeatureMapLoss):
    r"""Squared difference between the C x C matrices of how alike an image's channels are.

    .. math:: L = \frac{1}{NC^2} \sum_n \left\| G^S_n - G^T_n \right\|_F^2,
        \quad G_n = P_n P_n^\top, \quad P_{nc \cdot} = \mathrm{softmax}(z_{nc \cdot} / \tau)

    with the softmax over the positions of a channel, or P the channels with length 1, whose G are
    cosines.

    Taps: class scores of the same classes, whose matrix says which classes lie in the same places;
    features too.

    Choose it beside a loss on the pixels: it sees how classes go together and not where they are.

    Args:
        similarity: 'distribution', inner products of the softmax, which become small as 1 over the
            number of positions, so that the weight must be large; or 'cosine'.
        tau: Temperature of the softmax, > 0.
        pool: Size of the squares that are averaged before, >= 1.
        resolution: As in `FeatureMapLoss`.

    Raises:
        ValueError: An argument is out of its range.

    Reference: Feng et al., Double Similarity Distillation for Semantic Image Segmentation, IEEE
    TIP 2021, arXiv 2107.08591, the category-wise part, in the form and with the temperature and
    the squares of CIRKD's code for it.
    """

    def __init__(
        self,
        similarity: Similarity = 'distribution',
        tau: float = 4.0,
        pool: int = 2,
        resolution: Resolution = 'student',
    ) -> None:
        super().__init__(resolution)
        self.similarity = one_of('similarity', similarity, get_args(Similarity))
        self.tau = positive('tau', tau)
        self.pool = at_least_one('pool', pool)

    def distance(
        self, student_NChw: Tensor, teacher_NChw: Tensor, label_NHW: Tensor | None
    ) -> Tensor:
        return F.mse_loss(self._matrix(student_NChw), self._matrix(teacher_NChw))

    def _matrix(self, x_NChw: Tensor) -> Tensor:
        """Similarities (N, C, C)."""
        x_NCP = F.avg_pool2d(x_NChw, self.pool, ceil_mode=True).flatten(2)
        if self.similarity == 'cosine':
            x_NCP = unit_length(x_NCP, dim=2)
        else:
            x_NCP = (x_NCP / self.tau).softmax(2)
        return x_NCP @ x_NCP.mT
