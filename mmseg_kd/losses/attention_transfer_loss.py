"""Attention transfer between maps of activations."""

from __future__ import annotations

from torch import Tensor
from torch.linalg import vector_norm

from mmseg_kd.checks import at_least_one, true_or_false
from mmseg_kd.losses.feature_map_loss import FeatureMapLoss, Resolution
from mmseg_kd.losses.functional import unit_length
from mmseg_kd.registry import KD_LOSSES


@KD_LOSSES.register_module()
class AttentionTransferLoss(FeatureMapLoss):
    r"""Distance between the maps of how active each position is, over all channels.

    .. math:: L = \frac{1}{N} \sum_n \left\| \frac{Q^S_n}{\|Q^S_n\|_2}
        - \frac{Q^T_n}{\|Q^T_n\|_2} \right\|_2,
        \quad Q_{ni} = \frac{1}{C} \sum_c |f_{nci}|^p

    Student and teacher may have different numbers of channels: a term adds no connector. `ATLoss`
    is another loss, SegDistill's, for class scores.

    Taps: features of any layer; the paper takes the last of each stage of both backbones, each
    pair a term of its own.

    Choose it where student and teacher are of different widths and nothing but the student is to
    learn.

    Args:
        p: Power of the activations, >= 1; the larger, the more the strongest channels count.
        squared: The mean over images and positions of the squared difference, as in the authors'
            code, in place of the norm.
        resolution: As in `FeatureMapLoss`.

    Raises:
        ValueError: An argument is out of its range.

    Reference: Zagoruyko and Komodakis, Paying More Attention to Attention: Improving the
    Performance of Convolutional Neural Networks via Attention Transfer, ICLR 2017, arXiv
    1612.03928, eq. 2, whose factor beta / 2 is the term's weight (beta is 1000 there over the
    number of positions and images). The authors' code strays from it: `squared=True`.
    """

    needs_same_channels = False

    def __init__(
        self, p: int = 2, squared: bool = False, resolution: Resolution = 'student'
    ) -> None:
        super().__init__(resolution)
        self.p = at_least_one('p', p)
        self.squared = true_or_false('squared', squared)

    def distance(
        self, student_NChw: Tensor, teacher_NChw: Tensor, label_NHW: Tensor | None
    ) -> Tensor:
        ours_NP, theirs_NP = (
            unit_length(x_NChw.abs().pow(self.p).mean(1).flatten(1))
            for x_NChw in (student_NChw, teacher_NChw)
        )
        difference_NP = ours_NP - theirs_NP
        if self.squared:
            return difference_NP.square().mean()
        length_N: Tensor = vector_norm(difference_NP, dim=1)
        return length_N.mean()
