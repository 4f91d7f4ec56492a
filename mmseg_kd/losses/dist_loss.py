"""Correlations of distributions in place of their divergence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from mmseg_kd.checks import non_negative, one_of
from mmseg_kd.losses.functional import masked_mean
from mmseg_kd.losses.logit_loss import LogitLoss, Resolution
from mmseg_kd.losses.logit_maps import LogitMaps
from mmseg_kd.registry import KD_LOSSES

Variant = Literal['paper', 'torchdistill']

EPS = 1e-8


@KD_LOSSES.register_module()
class DISTLoss(LogitLoss):
    r"""How far the student's probabilities are from going with the teacher's, Pearson's way.

    .. math:: L = \beta \left( 1 - \frac{1}{|M|} \sum_{i \in M} \rho(p^S_{\cdot i}, p^T_{\cdot i})
        \right) + \gamma \left( 1 - \frac{1}{C} \sum_c \rho(p^S_{c \cdot}, p^T_{c \cdot}) \right)

    with rho Pearson's correlation, p the softmax over the channels of a pixel at temperature tau,
    M the pixels of the batch that are not ignored, beta the `inter_weight` and gamma the
    `intra_weight`: over the classes of each pixel, and over all pixels for each class. What varies
    on one side alone has correlation 0.

    Two more parts compare the maps as they are, without a softmax and never standardised:
    `channel_weight` times 1 less the correlation over the channels of each pixel, and
    `spatial_weight` times 1 less that over the images of the batch, of the sum of the channels at
    each place. With fewer than three images on a rank the last has no gradient.

    Args:
        inter_weight: Of the correlation over classes, >= 0.
        intra_weight: Of the correlation over pixels, >= 0.
        channel_weight: Of that over the channels as they are, >= 0.
        spatial_weight: Of that over images, >= 0.
        variant: 'torchdistill' divides by norms of 1e-8 at least where 1e-8 is added to their
            product else, and takes the channels' correlation itself, which a minimiser pushes
            down, and not 1 less it.
        tau, tau_squared, resolution, ignore_index, standardise, min_confidence: As in `LogitLoss`.

    Raises:
        ValueError: An argument is out of its range.

    Taps: class scores of the same classes, at their own size, as the paper does; with the two parts
    more alone, features.

    Choose it for a teacher much stronger than its student, whose probabilities cannot be met but
    can be followed.

    Reference: Huang et al., Knowledge Distillation from A Stronger Teacher, NeurIPS 2022, arXiv
    2205.10536, section 4; tau 1 without a factor as in the authors' code for segmentation, where
    mmrazor and torchdistill multiply by tau squared. The two parts more are those of torchdistill's
    DIST+.
    """

    averages_teachers = False

    def __init__(
        self,
        inter_weight: float = 1.0,
        intra_weight: float = 1.0,
        channel_weight: float = 0.0,
        spatial_weight: float = 0.0,
        variant: Variant = 'paper',
        tau: float = 1.0,
        tau_squared: bool = False,
        resolution: Resolution = 'student',
        ignore_index: int | None = None,
        standardise: bool = False,
        min_confidence: float = 0.0,
    ) -> None:
        super().__init__(tau, tau_squared, resolution, ignore_index, standardise, min_confidence)
        self.inter_weight = non_negative('inter_weight', inter_weight)
        self.intra_weight = non_negative('intra_weight', intra_weight)
        self.channel_weight = non_negative('channel_weight', channel_weight)
        self.spatial_weight = non_negative('spatial_weight', spatial_weight)
        self.variant = one_of('variant', variant, get_args(Variant))

    def loss(self, maps: LogitMaps) -> Tensor:
        loss = super().loss(maps)
        if self.channel_weight:
            loss = loss + self.channel_weight * maps.pixel_mean(self._of_channels)
        if self.spatial_weight:
            # The sum over the channels before the interpolation: both are linear.
            sums_N1HW = maps.changed(lambda x: x.sum(1, keepdim=True)).resized()
            alike_1HW = self._correlation(*_products((x - x.mean(0) for x in sums_N1HW), 0))
            mask_1HW = None if maps.mask_NHW is None else maps.mask_NHW.all(0, keepdim=True)
            loss = loss + self.spatial_weight * masked_mean(1 - alike_1HW, mask_1HW)
        return loss

    def divergence(self, maps: LogitMaps) -> Tensor:
        sums_K = maps.by_class().pixel_sums(self._of_probabilities).sum(0)
        inter, pixels = sums_K[0], sums_K[1]
        count = pixels.clamp(min=1)
        ours_C, theirs_C, both_C, ours_squared_C, theirs_squared_C = sums_K[2:].view(5, -1)
        alike_C = self._correlation(
            both_C - ours_C * theirs_C / count,
            ours_squared_C - ours_C.square() / count,
            theirs_squared_C - theirs_C.square() / count,
        )
        # Without any pixel, nothing differs.
        intra = (1 - alike_C).mean() * pixels.clamp(max=1)
        loss = self.inter_weight * inter / count + self.intra_weight * intra
        return loss.to(maps.student_NChw)

    def _of_probabilities(
        self, student: Tensor, teachers: Sequence[Tensor], label: Tensor | None
    ) -> list[Tensor]:
        # Less the mean over the classes, as probabilities sum to one.
        mean = 1 / student.shape[1]
        ours, theirs = ((x / self.tau).softmax(1) for x in (student, *teachers))
        inter = 1 - self._correlation(*_products((ours - mean, theirs - mean), 1)).unsqueeze(1)
        # Of a class that is nowhere, squares in float32 are coarser than the variance.
        ours, theirs = ours.double(), theirs.double()
        squares = [ours * theirs, ours.square(), theirs.square()]
        return [inter, torch.ones_like(inter), ours, theirs, *squares]

    def _of_channels(
        self, student: Tensor, teachers: Sequence[Tensor], label: Tensor | None
    ) -> Tensor:
        centred = (x - x.mean(1, keepdim=True) for x in (student, *teachers))
        # torchdistill's too adds to the norms here.
        alike = _from_sums(*_products(centred, 1), adds=True).unsqueeze(1)
        return alike if self.variant == 'torchdistill' else 1 - alike

    def _correlation(self, both: Tensor, ours: Tensor, theirs: Tensor) -> Tensor:
        return _from_sums(both, ours, theirs, adds=self.variant == 'paper')


def _products(pair: Iterable[Tensor], dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over a dimension of the products of student and teacher, and of each one's squares."""
    ours, theirs = pair
    return (ours * theirs).sum(dim), ours.square().sum(dim), theirs.square().sum(dim)


def _from_sums(both: Tensor, ours: Tensor, theirs: Tensor, adds: bool) -> Tensor:
    """Pearson's correlation from such sums of what has mean 0; 0 where the student is flat.

    There without a gradient, which would be as large as EPS is small.

    Args:
        both, ours, theirs: Of the products, and of each side's squares.
        adds: Whether EPS is added to the product of the norms; else it is the least of each.
    """
    is_flat = ours <= EPS**2
    ours, theirs = (x.clamp(min=0).masked_fill(is_flat, 1.0).sqrt() for x in (ours, theirs))
    norms = ours * theirs + EPS if adds else ours.clamp(min=EPS) * theirs.clamp(min=EPS)
    alike: Tensor = (both / norms).masked_fill(is_flat, 0.0)
    return alike
