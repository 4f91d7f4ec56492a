"""Pixel-wise distillation."""

from __future__ import annotations

from torch import Tensor

from mmseg_kd.losses.logit_loss import LogitLoss
from mmseg_kd.losses.logit_maps import LogitMaps
from mmseg_kd.registry import KD_LOSSES


@KD_LOSSES.register_module()
class KLLoss(LogitLoss):
    r"""KL divergence between the class distributions of each pixel.

    .. math:: L = \frac{1}{|M|} \sum_{i \in M} \sum_c
        p^T_{ci} \log \frac{p^T_{ci}}{p^S_{ci}},
        \quad p_{\cdot i} = \mathrm{softmax}(z_{\cdot i} / \tau)

    with M the pixels of the batch that are not ignored. Of one channel, as networks with a sigmoid
    give it, p is (sigmoid(z / tau), 1 - sigmoid(z / tau)).

    Taps: class scores of the same classes.

    Choose it as the plain method to compare with.

    Reference: Hinton et al., Distilling the Knowledge in a Neural Network, 2015, arXiv
    1503.02531; per pixel in Liu et al., Structured Knowledge Distillation for Semantic
    Segmentation, CVPR 2019, arXiv 1903.04197, eq. 1.
    """

    # A softmax over the channels of features means nothing.
    is_of_scores = True

    def divergence(self, maps: LogitMaps) -> Tensor:
        return maps.pixel_divergence(self.tau)
