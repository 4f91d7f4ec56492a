"""Augmentation-free dense contrastive distillation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_kd.checks import (
    at_least_one,
    at_least_zero,
    fraction,
    non_negative,
    positive,
    true_or_false,
)
from mmseg_kd.errors import short_repr
from mmseg_kd.losses.feature_map_loss import LearningFeatureMapLoss, Resolution
from mmseg_kd.losses.masked_generation import Generator, centre_mask, random_mask
from mmseg_kd.registry import KD_LOSSES

# How many are compared at once: on a GPU the gradient of the distances passes through K x K x D
# numbers a patch.
PATCHES = 4


@KD_LOSSES.register_module()
class AfDCDLoss(LearningFeatureMapLoss):
    r"""Masked generation of the teacher's features, and a contrast of their parts in patches.

    .. math:: L = \frac{\alpha}{N} \sum_{n,c,i} \left( g_{nci} - f^T_{nci} \right)^2
        - \frac{\beta}{N|\Omega|} \sum_{n,i,m} \log
        \frac{s(g_{nim}, f^T_{nim})}{s(g_{nim}, f^T_{nim})
        + \sum_{j, k \neq m} s(g_{nim}, f^T_{njk})},
        \quad s(a, b) = e^{-\|a - b\|_1 / \tau}

    with alpha the `feature_weight`, beta the `contrast_weight`, g the generated map as in
    `MGDLoss`, i and j the positions of a patch of the pooled maps, m and k groups of consecutive
    channels: each group of channels at each position is to be like the teacher's at the same place
    and unlike its other groups anywhere in the patch.

    In a patch of P positions and M groups each of P M parts is compared with as many; over the
    map that is P M^2 numbers a pooled position, 4096 by default.

    Taps: features; the paper takes the last stage of both backbones, with `KLLoss` on the class
    scores beside it.

    Choose it like `MGDLoss` where maps are large enough for patches: it adds what tells groups of
    channels apart.

    Args:
        channels: Of the maps after the connector, which are the teacher's. None: the term says it.
        feature_weight: Of the first part, >= 0; 2e-6 for Cityscapes, 1e-6 for ADE20K, 8e-6 for
            CamVid.
        contrast_weight: Of the second, >= 0; 0.005, 0.04 and 0.01 for these.
        tau: Temperature, > 0.
        groups: Groups of channels; divides them.
        pool: Size of the squares whose maximum is taken before the contrast, at most the map's; 0
            or 1: none.
        patch: Height and width of a patch, at most the map's. Rows and columns that do not fill
            one are left out.
        mask_ratio: Share of the positions that is masked, 0 to 1.
        rand_mask: Draw the mask anew in each step; or it is the middle third of both directions.
        enhance: Generate by four convolutions and not two.
        resolution: As in `FeatureMapLoss`.

    Raises:
        ValueError: An argument is out of its range.

    Reference: Fan et al., Augmentation-free Dense Contrastive Knowledge Distillation for Efficient
    Semantic Segmentation, NeurIPS 2023, arXiv 2312.04168, with the omni-contrast of the authors'
    code, where the group's own parts at other positions are no negatives, and its weights. The
    code clips the gradient of the generator's weights at a norm of 15; clip_grad of the
    optim_wrapper is over all.
    """

    def __init__(
        self,
        channels: int | None = None,
        feature_weight: float = 2e-6,
        contrast_weight: float = 0.005,
        tau: float = 0.07,
        groups: int = 16,
        pool: int = 4,
        patch: Sequence[int] = (4, 4),
        mask_ratio: float = 0.75,
        rand_mask: bool = True,
        enhance: bool = False,
        resolution: Resolution = 'student',
    ) -> None:
        super().__init__(resolution)
        self.feature_weight = non_negative('feature_weight', feature_weight)
        self.contrast_weight = non_negative('contrast_weight', contrast_weight)
        self.tau = positive('tau', tau)
        self.groups = at_least_one('groups', groups)
        self.pool = at_least_zero('pool', pool)
        if not (isinstance(patch, Sequence) and len(patch) == 2):
            raise ValueError(f'patch must be a height and a width, got {short_repr(patch)}.')
        height, width = (at_least_one('patch', side) for side in patch)
        self.patch = height, width
        self.mask_ratio = fraction('mask_ratio', mask_ratio)
        self.rand_mask = true_or_false('rand_mask', rand_mask)
        self.enhance = true_or_false('enhance', enhance)
        self.use_channels(channels)

    def make(self, channels: int) -> None:
        if channels % self.groups:
            raise ValueError(f'groups={self.groups} does not divide {channels} channels.')
        self.generator = Generator(channels, self.enhance)

    def distance(
        self, student_NChw: Tensor, teacher_NChw: Tensor, label_NHW: Tensor | None
    ) -> Tensor:
        mask = (
            random_mask(student_NChw, self.mask_ratio)
            if self.rand_mask
            else centre_mask(student_NChw)
        )
        generated_NChw = self.generator(student_NChw * mask)
        squares = (generated_NChw - teacher_NChw).square().sum() / len(teacher_NChw)
        loss: Tensor = self.feature_weight * squares
        if self.contrast_weight:
            loss = loss + self.contrast_weight * self._contrast(generated_NChw, teacher_NChw)
        return loss

    def _contrast(self, generated_NChw: Tensor, teacher_NChw: Tensor) -> Tensor:
        if self.pool > 1:
            h, w = teacher_NChw.shape[-2:]
            size = min(self.pool, h), min(self.pool, w)
            generated_NChw = F.max_pool2d(generated_NChw, size)
            teacher_NChw = F.max_pool2d(teacher_NChw, size)
        ours_BKD, theirs_BKD = self._parts(generated_NChw), self._parts(teacher_NChw)
        pieces = zip(ours_BKD.split(PATCHES), theirs_BKD.split(PATCHES), strict=True)
        distances = [torch.cdist(ours, theirs, p=1) for ours, theirs in pieces]
        similarity_BKK = -torch.cat(distances) / self.tau
        k = similarity_BKK.shape[-1]
        index_K = torch.arange(k, device=similarity_BKK.device)
        is_other_KK = index_K[:, None] != index_K
        same_group_KK = index_K[:, None] % self.groups == index_K % self.groups
        similarity_BKK = similarity_BKK.masked_fill(same_group_KK & is_other_KK, -torch.inf)
        log_p_BK = similarity_BKK.log_softmax(2).diagonal(dim1=1, dim2=2)
        # A mean over images and positions, a sum over groups.
        return -log_p_BK.mean() * self.groups

    def _parts(self, x_NChw: Tensor) -> Tensor:
        """The parts (patches of all images, positions x groups, channels of a group)."""
        n, c, h, w = x_NChw.shape
        a, b = min(self.patch[0], h), min(self.patch[1], w)
        rows, columns = h // a, w // b
        x_NChw = x_NChw[..., : rows * a, : columns * b]
        d = c // self.groups
        x = x_NChw.reshape(n, self.groups, d, rows, a, columns, b)
        return x.permute(0, 3, 5, 4, 6, 1, 2).reshape(n * rows * columns, a * b * self.groups, d)
