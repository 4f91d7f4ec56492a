"""Attention transfer."""

from __future__ import annotations

from torch import Tensor

from mmseg_kd.checks import non_negative
from mmseg_kd.losses.functional import masked_mean
from mmseg_kd.losses.logit_loss import LogitLoss, Resolution
from mmseg_kd.losses.logit_maps import LogitMaps
from mmseg_kd.registry import KD_LOSSES


@KD_LOSSES.register_module()
class ATLoss(LogitLoss):
    r"""Squared difference of the means over the channels, plus the KL divergence of each pixel.

    .. math:: L = \frac{\alpha}{|M|} \sum_{i \in M}
        \left( \frac{1}{C} \sum_c z^S_{ci} - \frac{1}{C} \sum_c z^T_{ci} \right)^2
        + \kappa L_{\mathrm{KL}}

    with M the pixels of the batch that are not ignored, alpha the `attention_weight`, kappa the
    `kl_weight` and L_KL as in `KLLoss`.

    Args:
        attention_weight: Of the first part, >= 0.
        kl_weight: Of the second, >= 0.
        tau: Temperature of the second, > 0.
        resolution, ignore_index, min_confidence: As in `LogitLoss`.

    Raises:
        ValueError: An argument is out of its range.

    Taps: class scores; with `kl_weight=0` features.

    Choose it to repeat the published comparison; attention transfer as its paper has it is
    `AttentionTransferLoss`.

    Reference: `ATLoss` of SegDistill, after Zagoruyko and Komodakis, Paying More Attention to
    Attention, ICLR 2017, arXiv 1612.03928, which takes other means and no KL divergence.
    """

    averages_teachers = False

    def __init__(
        self,
        attention_weight: float = 1.0,
        kl_weight: float = 1.0,
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
        self.attention_weight = non_negative('attention_weight', attention_weight)
        self.kl_weight = non_negative('kl_weight', kl_weight)

    def divergence(self, maps: LogitMaps) -> Tensor:
        # The mean over the channels before the interpolation: both are linear.
        ours_N1HW, theirs_N1HW = maps.changed(lambda x: x.mean(1, keepdim=True)).resized()
        attention = masked_mean((ours_N1HW - theirs_N1HW).square()[:, 0], maps.mask_NHW)
        loss = self.attention_weight * attention
        if self.kl_weight:
            loss = loss + self.kl_weight * maps.pixel_divergence(self.tau)
        return loss
