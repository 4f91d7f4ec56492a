"""Overlap of classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmseg_kd.checks import fraction, is_number, non_negative, positive, true_or_false
from mmseg_kd.errors import short_repr
from mmseg_kd.losses.functional import is_own_class, masked_mean, mean_log_softmax
from mmseg_kd.losses.logit_loss import LogitLoss, Resolution
from mmseg_kd.losses.logit_maps import LogitMaps
from mmseg_kd.registry import KD_LOSSES


@KD_LOSSES.register_module()
class JaccardLoss(LogitLoss):
    r"""One minus the Jaccard index of each class, with the teacher's probabilities for labels.

    .. math:: L = \frac{1}{C} \sum_c \left(
        1 - \frac{t_c + s}{t_c + \alpha f_c + \beta g_c + s} \right)^\gamma,
        \quad t_c = \frac{1}{2} \left( |p^S_c| + |p^T_c| - |p^S_c - p^T_c| \right)

    with p the softmax over the channels, the norms over the pixels of the batch that are not
    ignored, f = norm of the student's less t, what it has too much, g = norm of the teacher's less
    t, what it lacks, and s `smooth`. This, over the batch, has weight `batch_weight`; with
    `image_weight` the same of each image is averaged over its classes, then over the images, with
    `class_weight` over the images that have a class, then over the classes.

    Args:
        label_weight: Share of the same loss with the labels, 0 to 1; of the classes that are among
            them, and never standardised.
        alpha: Weight of what the student has too much, >= 0.
        beta: Weight of what it lacks, >= 0. 1 and 1 are the Jaccard index, 0.5 and 0.5 Dice's.
        smooth: Added above and below, > 0, in pixels.
        batch_weight, image_weight, class_weight: Of the three ways to take the mean, >= 0.
        threshold: A class takes part where the teacher's largest probability of it is above
            this. None: all classes do.
        norm: Exponent of the values that are added up, >= 1.
        log: The negative logarithm of the index in place of 1 less it.
        gamma: Exponent of the loss of a class, >= 1.
        resolution, ignore_index, standardise, min_confidence: As in `LogitLoss`.

    Raises:
        ValueError: An argument is out of its range.

    Taps: class scores of the same classes, at the labels' size, as the paper does.

    Choose it beside a loss of pixels where rare and small classes count: each has the same share,
    as in the mIoU.

    Reference: Wang et al., Jaccard Metric Losses: Optimizing the Jaccard Index with Soft Labels,
    NeurIPS 2023, arXiv 2302.05666; Dice's in Dice Semimetric Losses, MICCAI 2023, arXiv
    2303.16296. For distillation the paper takes smooth 1 and label_weight 0.5.
    """

    def __init__(
        self,
        label_weight: float = 0.0,
        alpha: float = 1.0,
        beta: float = 1.0,
        smooth: float = 1e-3,
        batch_weight: float = 1.0,
        image_weight: float = 0.0,
        class_weight: float = 0.0,
        threshold: float | None = None,
        norm: float = 1.0,
        log: bool = False,
        gamma: float = 1.0,
        resolution: Resolution = 'label',
        ignore_index: int | None = None,
        standardise: bool = False,
        min_confidence: float = 0.0,
    ) -> None:
        super().__init__(
            resolution=resolution,
            ignore_index=ignore_index,
            standardise=standardise,
            min_confidence=min_confidence,
        )
        for name, value in (('norm', norm), ('gamma', gamma)):
            if not (is_number(value) and value >= 1):
                raise ValueError(f'{name} must be a finite number >= 1, got {short_repr(value)}.')
        self.label_weight = fraction('label_weight', label_weight)
        self.alpha = non_negative('alpha', alpha)
        self.beta = non_negative('beta', beta)
        self.smooth = positive('smooth', smooth)
        self.batch_weight = non_negative('batch_weight', batch_weight)
        self.image_weight = non_negative('image_weight', image_weight)
        self.class_weight = non_negative('class_weight', class_weight)
        self.threshold = None if threshold is None else fraction('threshold', threshold)
        self.norm = norm
        self.log = true_or_false('log', log)
        self.gamma = gamma

    def loss(self, maps: LogitMaps) -> Tensor:
        loss = (1 - self.label_weight) * super().loss(maps)
        if self.label_weight:
            # A class is there where a pixel's probability of it is 1.
            with_labels = self._of_sums(maps.labelled().pixel_sums(self._with_labels), True)
            loss = loss + self.label_weight * with_labels.to(loss.dtype)
        return loss

    def divergence(self, maps: LogitMaps) -> Tensor:
        maps = maps.by_class()
        loss = self._of_sums(maps.pixel_sums(self._with_teachers), self.threshold is not None)
        return loss.to(maps.student_NChw.dtype)

    def _with_teachers(
        self, student: Tensor, teachers: Sequence[Tensor], label: Tensor | None
    ) -> list[Tensor]:
        return self._norms(student, mean_log_softmax(teachers, 1).exp(), self.threshold or 0.0)

    def _with_labels(
        self, student: Tensor, teachers: Sequence[Tensor], label: Tensor | None
    ) -> list[Tensor]:
        assert label is not None
        return self._norms(student, is_own_class(label, student).to(student.dtype), 0.0)

    def _norms(self, student: Tensor, target: Tensor, threshold: float) -> list[Tensor]:
        """What is added up over the pixels: of student, target, their difference; and presence."""
        p = student.softmax(1)
        norms = [x if self.norm == 1 else x.pow(self.norm) for x in (p, target, (p - target).abs())]
        return [*norms, (target > threshold).to(p.dtype)]

    def _of_sums(self, sums_NK: Tensor, is_present_alone: bool) -> Tensor:
        sums_4NC = sums_NK.unflatten(1, (4, -1)).transpose(0, 1)
        is_active_NC = (
            (sums_4NC[3] > 0) if is_present_alone else torch.ones_like(sums_4NC[3]).bool()
        )
        loss = sums_NK.new_zeros(())
        if self.batch_weight:
            loss_C = self._of_norms(*sums_4NC[:3].sum(1))
            loss = loss + self.batch_weight * masked_mean(loss_C, is_active_NC.any(0))
        if self.image_weight or self.class_weight:
            loss_NC = self._of_norms(*sums_4NC[:3])
            for weight, dim in ((self.image_weight, 1), (self.class_weight, 0)):
                counts = is_active_NC.sum(dim)
                means = loss_NC.masked_fill(~is_active_NC, 0.0).sum(dim) / counts.clamp(min=1)
                loss = loss + weight * masked_mean(means, counts > 0)
        return loss

    def _of_norms(self, ours: Tensor, theirs: Tensor, difference: Tensor) -> Tensor:
        both = (ours + theirs - difference) / 2
        too_much, lacking = ours - both, theirs - both
        union = both + self.alpha * too_much + self.beta * lacking
        index = (both + self.smooth) / (union + self.smooth)
        loss = -index.log() if self.log else 1 - index
        # What rounding leaves below zero has no power.
        return loss.clamp(min=0) ** self.gamma
