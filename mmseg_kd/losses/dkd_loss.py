"""Decoupled distillation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmseg_kd.checks import non_negative
from mmseg_kd.losses.functional import is_own_class, mean_log_softmax
from mmseg_kd.losses.logit_loss import LogitLoss, Resolution
from mmseg_kd.losses.logit_maps import LogitMaps
from mmseg_kd.registry import KD_LOSSES


@KD_LOSSES.register_module()
class DKDLoss(LogitLoss):
    r"""KL divergence of each pixel in two parts: its own class or not, and the other classes.

    .. math:: L = \frac{\tau^2}{|M|} \sum_{i \in M} \left(
        \alpha \sum_{b \in \{y_i, \bar{y}_i\}} p^T_{bi} \log \frac{p^T_{bi}}{p^S_{bi}}
        + \beta \sum_{c \ne y_i} \hat{p}^T_{ci} \log \frac{\hat{p}^T_{ci}}{\hat{p}^S_{ci}} \right)

    with p the softmax over the channels of a pixel at temperature tau, its own class y or the sum
    of the others; p-hat the softmax over the others alone; and M the pixels of the batch whose
    label is a class and not ignored. Labels are needed: of images without masks it says nothing.

    Args:
        alpha: Weight of the first part, >= 0.
        beta: Weight of the second, >= 0.
        tau, resolution, ignore_index, standardise, min_confidence: As in `LogitLoss`.
        tau_squared: As there; True as in the authors' code.

    Raises:
        ValueError: An argument is out of its range.

    Taps: class scores of the same classes, as the paper does.

    Choose it where a teacher is so sure of its classes that `KLLoss` says little of the others.

    Reference: Zhao et al., Decoupled Knowledge Distillation, CVPR 2022, arXiv 2203.08679, eq. 7,
    for images; tau, alpha and beta are those of its experiments on CIFAR-100, where the loss is
    warmed up. The code of mmrazor returns the sum over the pixels in place of the mean.
    """

    takes_labelled_pixels_alone = True

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 8.0,
        tau: float = 4.0,
        tau_squared: bool = True,
        resolution: Resolution = 'label',
        ignore_index: int | None = None,
        standardise: bool = False,
        min_confidence: float = 0.0,
    ) -> None:
        super().__init__(tau, tau_squared, resolution, ignore_index, standardise, min_confidence)
        self.alpha = non_negative('alpha', alpha)
        self.beta = non_negative('beta', beta)

    def divergence(self, maps: LogitMaps) -> Tensor:
        return maps.labelled().pixel_mean(self._of_pixel)

    def _of_pixel(
        self, student: Tensor, teachers: Sequence[Tensor], label: Tensor | None
    ) -> Tensor:
        assert label is not None
        theirs = teachers[0] / self.tau
        if len(teachers) > 1:
            theirs = mean_log_softmax([x / self.tau for x in teachers], 1)
        is_own = is_own_class(label, student)
        # Pixels of no class are left out: for them any will do.
        label = label.clamp(0, student.shape[1] - 1)
        (own_s, others_s, other_s), (own_t, others_t, other_t) = (
            _parts(x, label, is_own) for x in (student / self.tau, theirs)
        )
        p_t = other_t.exp().masked_fill(is_own, 0.0)
        target = own_t.exp() * (own_t - own_s) + others_t.exp() * (others_t - others_s)
        others = (p_t * (other_t - other_s)).sum(1, keepdim=True)
        return self.alpha * target + self.beta * others


def _parts(logits: Tensor, label: Tensor, is_own: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each pixel the log-probability of its own class, and that of all others together; and that
    of each other among these, of no meaning for its own.
    """
    own = logits.gather(1, label)
    others = logits.masked_fill(is_own, -torch.inf).logsumexp(1, keepdim=True)
    total = torch.logaddexp(own, others)
    return own - total, others - total, logits - others
