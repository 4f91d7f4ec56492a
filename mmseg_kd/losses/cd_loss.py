"""Channel distillation."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mmseg_kd.losses.kernels.dispatch import group_divergence_at
from mmseg_kd.losses.logit_loss import LogitLoss
from mmseg_kd.registry import KD_LOSSES


@KD_LOSSES.register_module()
class CDLoss(LogitLoss):
    r"""KL divergence between the spatial distributions of each channel.

    .. math:: L = \frac{1}{NC} \sum_{n,c} \sum_{i}
        p^T_{nci} \log \frac{p^T_{nci}}{p^S_{nci}},
        \quad p_{nc\cdot} = \mathrm{softmax}(z_{nc\cdot} / \tau)

    where i runs over the pixels of a channel that are not ignored.

    Reference: Shu et al., Channel-wise Knowledge Distillation for Dense Prediction, ICCV 2021,
    arXiv 2011.13256, eq. 5 and 6 (there with the factor tau squared: `tau_squared=True`).
    """

    def divergence(
        self,
        student_NChw: Tensor,
        teachers_NChw: Sequence[Tensor],
        size: tuple[int, int],
        mask_NHW: Tensor | None,
        label_NHW: Tensor | None,
    ) -> Tensor:
        return group_divergence_at(student_NChw, teachers_NChw, size, 1, self.tau, mask_NHW)
