"""Channel distillation under the name and with the factor of its paper."""

from __future__ import annotations

from mmseg_kd.losses.cd_loss import CDLoss
from mmseg_kd.losses.logit_loss import Resolution
from mmseg_kd.registry import KD_LOSSES


@KD_LOSSES.register_module()
class CWD(CDLoss):
    r"""`CDLoss` times tau squared, by the name that it has in the literature.

    .. math:: L = \frac{\tau^2}{NC} \sum_{n,c} \sum_{i}
        p^T_{nci} \log \frac{p^T_{nci}}{p^S_{nci}},
        \quad p_{nc\cdot} = \mathrm{softmax}(z_{nc\cdot} / \tau)

    where i runs over the pixels of a channel that are not ignored.

    Args:
        tau, resolution, ignore_index, standardise: As in `LogitLoss`.

    Raises:
        ValueError: An argument is out of its range.

    Taps: class scores of the same classes, or features with `resolution='student'`; the paper has
    both.

    Choose it to repeat what is published under this name (tau 4, weight 3 on scores and 50 on
    features); else `CDLoss` is the same.

    Reference: Shu et al., Channel-wise Knowledge Distillation for Dense Prediction, ICCV 2021,
    arXiv 2011.13256, eq. 5 and 6.
    """

    def __init__(
        self,
        tau: float = 1.0,
        resolution: Resolution = 'label',
        ignore_index: int | None = None,
        standardise: bool = False,
    ) -> None:
        super().__init__(tau, True, resolution, ignore_index, standardise)
