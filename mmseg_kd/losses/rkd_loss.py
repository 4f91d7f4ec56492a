"""Relational knowledge distillation."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_kd.checks import at_least_one, non_negative, one_of, true_or_false
from mmseg_kd.losses.feature_map_loss import FeatureMapLoss, Resolution
from mmseg_kd.losses.functional import unit_length
from mmseg_kd.registry import KD_LOSSES

Relations = Literal['regions', 'images']


@KD_LOSSES.register_module()
class RKDLoss(FeatureMapLoss):
    r"""Smooth L1 norm of the differences of distances and of angles, between regions or images.

    .. math:: L = \frac{\lambda_D}{n^2} \sum_{i,j} \ell\left( \psi^S_{ij} - \psi^T_{ij} \right)
        + \frac{\lambda_A}{n^3} \sum_{i,j,k} \ell\left( \cos \angle^S_{jik}
        - \cos \angle^T_{jik} \right),
        \quad \psi_{ij} = \frac{1}{\mu} \| f_i - f_j \|

    with mu the mean of the distances that are not 0, of each side by itself, and the angle at i
    between j and k. Where f are regions, L is the mean over the images. Student and teacher may
    have different numbers of channels. Memory is cubic in the number n of what is compared.

    Taps: features of any layer; the paper takes one vector an image, after a global pooling.

    Choose it where the spaces of the two networks have little in common: distances and angles know
    neither place nor scale.

    Args:
        distance_weight: Of the distances, >= 0.
        angle_weight: Of the angles, >= 0.
        relations: 'regions': between the cells of the grid, in each image. 'images': between the
            images of the batch, each all its cells as one vector, of which n x n are held.
        grid: The map is averaged over so many cells a side. None, for images only: over none.
        normalise: Divide the vectors by their lengths before.
        resolution: As in `FeatureMapLoss`.

    Raises:
        ValueError: An argument is out of its range.

    Reference: Park et al., Relational Knowledge Distillation, CVPR 2019, arXiv 1904.05068,
    section 3.2, with means in place of its sums. 25 and 50 are mmrazor's weights, which has
    `normalise=True` too; the authors' code has 1 and 2. Regions are this package's.
    """

    needs_same_channels = False

    def __init__(
        self,
        distance_weight: float = 25.0,
        angle_weight: float = 50.0,
        relations: Relations = 'regions',
        grid: int | None = 4,
        normalise: bool = False,
        resolution: Resolution = 'student',
    ) -> None:
        super().__init__(resolution)
        self.distance_weight = non_negative('distance_weight', distance_weight)
        self.angle_weight = non_negative('angle_weight', angle_weight)
        self.relations = one_of('relations', relations, get_args(Relations))
        self.grid = None if grid is None else at_least_one('grid', grid)
        self.normalise = true_or_false('normalise', normalise)
        if relations == 'regions' and (grid is None or grid < 2):
            raise ValueError(f"relations='regions' needs a grid of at least 2, got {grid}.")

    def distance(
        self, student_NChw: Tensor, teacher_NChw: Tensor, label_NHW: Tensor | None
    ) -> Tensor:
        # B sets of n vectors.
        ours_BnD, theirs_BnD = self._vectors(student_NChw), self._vectors(teacher_NChw)
        loss = ours_BnD.new_zeros(())
        if self.distance_weight:
            loss = loss + self.distance_weight * F.smooth_l1_loss(
                _distances(ours_BnD), _distances(theirs_BnD)
            )
        if self.angle_weight:
            loss = loss + self.angle_weight * F.smooth_l1_loss(
                _cosines(ours_BnD), _cosines(theirs_BnD)
            )
        return loss

    def _vectors(self, x_NChw: Tensor) -> Tensor:
        if self.grid is not None:
            x_NChw = F.adaptive_avg_pool2d(x_NChw, self.grid)
        x_BnD = x_NChw.flatten(2).mT if self.relations == 'regions' else x_NChw.flatten(1)[None]
        return unit_length(x_BnD, dim=2) if self.normalise else x_BnD


def _differences(x_BnD: Tensor) -> Tensor:
    return x_BnD[:, None] - x_BnD[:, :, None]


def _distances(x_BnD: Tensor) -> Tensor:
    """Distances (B, n, n), with mean 1 over those between two."""
    n = x_BnD.shape[1]
    other_nn = 1 - torch.eye(n, dtype=x_BnD.dtype, device=x_BnD.device)
    # The floor keeps the gradient finite, which is 0 between equal vectors.
    distance_Bnn = _differences(x_BnD).square().sum(-1).clamp(min=1e-12).sqrt() * other_nn
    mean_B11 = distance_Bnn.sum((1, 2), keepdim=True) / max(1, n * (n - 1))
    return distance_Bnn / mean_B11.clamp(min=1e-12)


def _cosines(x_BnD: Tensor) -> Tensor:
    """Of the angle at i between j and k (B, n, n, n); 0 where two are equal."""
    direction_BnnD = unit_length(_differences(x_BnD), dim=-1)
    return direction_BnnD @ direction_BnnD.mT
