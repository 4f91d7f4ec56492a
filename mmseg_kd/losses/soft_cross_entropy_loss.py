"""Cross-entropy with what the teacher says and what the labels say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from mmseg_kd.checks import fraction
from mmseg_kd.losses.cross_entropy import cross_entropy_sums
from mmseg_kd.losses.functional import mean_log_softmax
from mmseg_kd.losses.logit_loss import LogitLoss, Resolution
from mmseg_kd.losses.logit_maps import LogitMaps
from mmseg_kd.registry import KD_LOSSES


@KD_LOSSES.register_module()
class SoftCrossEntropyLoss(LogitLoss):
    r"""Cross-entropy of each pixel with the teacher's distribution, mixed with the labels.

    .. math:: L = -\frac{1 - \lambda}{|M|} \sum_{i \in M} \sum_c p^T_{ci} \log p^S_{ci}
        - \frac{\lambda}{|M'|} \sum_{i \in M'} \log q^S_{y_i i},
        \quad p_{\cdot i} = \mathrm{softmax}(z_{\cdot i} / \tau)

    with q the softmax at temperature 1, M the pixels of the batch that are not ignored, M' those
    of them whose label is a class, and lambda the `label_weight`. `tau_squared` and `standardise`
    are for the teacher's part alone. The gradient of that part is that of `KLLoss`; its value is
    larger by the teacher's entropy, so equal inputs do not give 0.

    Args:
        label_weight: Share of the labels, 0 to 1. With 0 none are needed for it.
        tau, tau_squared, resolution, ignore_index, standardise, min_confidence: As in `LogitLoss`.

    Raises:
        ValueError: An argument is out of its range.

    Taps: class scores of the same classes, as the paper does.

    Choose it to repeat SKD's pixel-wise part, or for one term whose value compares with the
    student's own cross-entropy.

    Reference: Hinton et al., Distilling the Knowledge in a Neural Network, 2015, arXiv 1503.02531,
    section 2; pixel-wise part of Liu et al., Structured Knowledge Distillation for Semantic
    Segmentation, CVPR 2019, arXiv 1903.04197, whose code is not divided by the number of images:
    there the loss is this one times it.
    """

    def __init__(
        self,
        label_weight: float = 0.0,
        tau: float = 1.0,
        tau_squared: bool = False,
        resolution: Resolution = 'label',
        ignore_index: int | None = None,
        standardise: bool = False,
        min_confidence: float = 0.0,
    ) -> None:
        super().__init__(tau, tau_squared, resolution, ignore_index, standardise, min_confidence)
        self.label_weight = fraction('label_weight', label_weight)

    def loss(self, maps: LogitMaps) -> Tensor:
        loss = (1 - self.label_weight) * super().loss(maps)
        if self.label_weight:
            loss = loss + self.label_weight * _with_labels(maps.labelled())
        return loss

    def divergence(self, maps: LogitMaps) -> Tensor:
        teacher_NChw, *others_NChw = maps.by_class().teachers_NChw
        of_teachers = replace(maps, student_NChw=teacher_NChw, teachers_NChw=others_NChw)
        return maps.pixel_divergence(self.tau) + of_teachers.pixel_mean(self._entropy)

    def _entropy(self, teacher: Tensor, others: Sequence[Tensor], label: Tensor | None) -> Tensor:
        log_p = mean_log_softmax([x / self.tau for x in (teacher, *others)], 1)
        return -(log_p.exp() * log_p).sum(1, keepdim=True)


def _with_labels(maps: LogitMaps) -> Tensor:
    """The mean of the cross-entropy over the pixels of the mask."""
    assert maps.label_NHW is not None
    assert maps.mask_NHW is not None
    nothing = -1
    label_NHW = maps.label_NHW.masked_fill(~maps.mask_NHW, nothing)
    total, _ = cross_entropy_sums(maps.student_NChw, label_NHW, ignore_index=nothing)
    return total / maps.count()
