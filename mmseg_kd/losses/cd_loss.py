"""Channel distillation."""

from __future__ import annotations

from torch import Tensor

from mmseg_kd.losses.logit_loss import LogitLoss
from mmseg_kd.losses.logit_maps import LogitMaps
from mmseg_kd.registry import KD_LOSSES


@KD_LOSSES.register_module()
class CDLoss(LogitLoss):
    r"""KL divergence between the spatial distributions of each channel.

    .. math:: L = \frac{1}{NC} \sum_{n,c} \sum_{i}
        p^T_{nci} \log \frac{p^T_{nci}}{p^S_{nci}},
        \quad p_{nc\cdot} = \mathrm{softmax}(z_{nc\cdot} / \tau)

    where i runs over the pixels of a channel that are not ignored.

    Taps: class scores, or features with `resolution='student'`.

    Choose it for features of any layer: it sees where in the image each channel is strong, whatever
    its level.

    Reference: Shu et al., Channel-wise Knowledge Distillation for Dense Prediction, ICCV 2021,
    arXiv 2011.13256, eq. 5 and 6 (there with the factor tau squared: `tau_squared=True`).
    """

    def divergence(self, maps: LogitMaps) -> Tensor:
        return maps.group_divergence(1, self.tau)
