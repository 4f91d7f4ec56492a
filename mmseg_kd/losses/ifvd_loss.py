"""Intra-class feature variation distillation."""

from __future__ import annotations

from torch import Tensor

from mmseg_kd.checks import at_least_one, non_negative
from mmseg_kd.losses.functional import class_similarity, masked_mean
from mmseg_kd.losses.logit_loss import LogitLoss, Resolution
from mmseg_kd.losses.logit_maps import LogitMaps
from mmseg_kd.registry import KD_LOSSES


@KD_LOSSES.register_module()
class IFVDLoss(LogitLoss):
    r"""Squared difference of how like its class centre each pixel is, plus the pixels' KL.

    .. math:: L = \frac{\alpha}{|M|} \sum_{i \in M} \left(
        \cos(z^S_i, \mu^S_{y_i}) - \cos(z^T_i, \mu^T_{y_i}) \right)^2 + \kappa L_{\mathrm{KL}}

    with M the pixels of the batch that are not ignored, z_i the vector of a pixel's channels,
    mu_y the mean of those of an image's pixels with label y, alpha the `variation_weight`, kappa
    the `kl_weight` and L_KL as in `KLLoss`. Labels are needed.

    Args:
        variation_weight: Of the first part, >= 0.
        kl_weight: Of the second, >= 0; 0 for layers that put out features and not scores.
        num_classes: Labels from 0 to `num_classes` - 1 are classes. A pixel with another label
            has no centre and counts as equal on both sides. The default takes every label but
            255 for a class.
        tau: Temperature of the second part, > 0.
        resolution, ignore_index, min_confidence: As in `LogitLoss`.

    Raises:
        ValueError: An argument is out of its range.

    Taps: class scores; with `kl_weight=0` features.

    Choose it where the level of the scores says little: a cosine does not see it, only how typical
    of its class each pixel is.

    Reference: Wang et al., Intra-class Feature Variation Distillation for Semantic Segmentation,
    ECCV 2020, eq. 2 to 4. The weights are those of SegDistill; the paper's loss is the
    first part alone.
    """

    averages_teachers = False

    def __init__(
        self,
        variation_weight: float = 10.0,
        kl_weight: float = 1.0,
        num_classes: int = 255,
        tau: float = 1.0,
        resolution: Resolution = 'student',
        ignore_index: int | None = None,
        min_confidence: float = 0.0,
    ) -> None:
        super().__init__(
            tau,
            resolution=resolution,
            ignore_index=ignore_index,
            min_confidence=min_confidence,
        )
        self.variation_weight = non_negative('variation_weight', variation_weight)
        self.kl_weight = non_negative('kl_weight', kl_weight)
        self.num_classes = at_least_one('num_classes', num_classes)

    def divergence(self, maps: LogitMaps) -> Tensor:
        label_NHW = maps.label_NHW
        if label_NHW is None:
            raise ValueError('IFVDLoss needs labels, got none.')
        ours_NHW, theirs_NHW = (
            class_similarity(x_NCHW, label_NHW, self.num_classes) for x_NCHW in maps.resized()
        )
        variation = masked_mean((ours_NHW - theirs_NHW).square(), maps.mask_NHW)
        loss = self.variation_weight * variation
        if self.kl_weight:
            loss = loss + self.kl_weight * maps.pixel_divergence(self.tau)
        return loss
