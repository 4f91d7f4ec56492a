"""Structured knowledge distillation, pair-wise."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_kd.checks import is_integer, positive, true_or_false
from mmseg_kd.losses.feature_map_loss import FeatureMapLoss, Resolution
from mmseg_kd.losses.functional import sum_over_pieces, unit_length
from mmseg_kd.registry import KD_LOSSES


@KD_LOSSES.register_module()
class SKDLoss(FeatureMapLoss):
    r"""Squared difference of how like each other the parts of an image are.

    .. math:: L = \frac{1}{N n^2} \sum_{m=1}^{N} \sum_{i,j=1}^{n} \left(
        \cos(f^S_{mi}, f^S_{mj}) - \cos(f^T_{mi}, f^T_{mj}) \right)^2

    with n nodes an image, each the maximum of every channel over a patch. Student and teacher may
    have different numbers of channels. The n x n matrices are never held as a whole; time is
    quadratic in n.

    Taps: features with context in them; the paper takes what a head puts before its classifier,
    after the pyramid pooling.

    Choose it to hand on the layout of a scene, beside a term on the class scores.

    Args:
        pool: The sides of a patch: a whole number of positions, or below 1 a share of the map's
            height and width.
        detach_norm: As in the authors' code, let no gradient through the lengths of the vectors in
            the cosine, to which 1e-8 is added.
        resolution: As in `FeatureMapLoss`.

    Raises:
        ValueError: An argument is out of its range.

    Reference: Liu et al., Structured Knowledge Distillation for Semantic Segmentation, CVPR 2019,
    arXiv 1903.04197, eq. 2. The authors' code has `pool=0.5`, `detach_norm=True`. The
    pixel-wise term is `KLLoss`; the adversarial one, which trains a discriminator by an optimiser
    of its own, is not here.
    """

    needs_same_channels = False

    def __init__(
        self,
        pool: float = 2,
        detach_norm: bool = False,
        resolution: Resolution = 'student',
    ) -> None:
        super().__init__(resolution)
        self.pool = positive('pool', pool)
        if pool >= 1 and not is_integer(pool):
            raise ValueError(f'pool must be a whole number, or a share below 1, got {pool!r}.')
        self.detach_norm = true_or_false('detach_norm', detach_norm)

    def distance(
        self, student_NChw: Tensor, teacher_NChw: Tensor, label_NHW: Tensor | None
    ) -> Tensor:
        student_NIC, teacher_NIC = self._nodes(student_NChw), self._nodes(teacher_NChw)
        n, nodes, _ = student_NIC.shape
        total = torch.stack(
            [
                sum_over_pieces(_squares, (ours, theirs), (ours, theirs))
                for ours, theirs in zip(student_NIC, teacher_NIC, strict=True)
            ]
        )
        return total.sum() / (n * nodes**2)

    def _nodes(self, x_NChw: Tensor) -> Tensor:
        """The nodes' vectors, of length 1; without gradient where they are 0."""
        size = x_NChw.shape[-2:]
        patch = [int(self.pool if self.pool >= 1 else max(1, side * self.pool)) for side in size]
        x_NIC = F.max_pool2d(x_NChw, patch, patch, ceil_mode=True).flatten(2).mT
        if not self.detach_norm:
            return unit_length(x_NIC, dim=2)
        length_NI1 = torch.linalg.vector_norm(x_NIC.detach(), dim=2, keepdim=True)
        unit_NIC: Tensor = x_NIC / (length_NI1.masked_fill(length_NI1 == 0, math.inf) + 1e-8)
        return unit_NIC


def _squares(ours_PC: Tensor, theirs_PC: Tensor, ours_IC: Tensor, theirs_IC: Tensor) -> Tensor:
    return (ours_PC @ ours_IC.T - theirs_PC @ theirs_IC.T).square().sum()
