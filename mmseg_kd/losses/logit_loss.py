"""What the losses between two maps of logits have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from mmseg_kd.checks import fraction, is_integer, one_of, positive, true_or_false
from mmseg_kd.errors import short_repr
from mmseg_kd.losses.base_loss import BaseLoss, check_maps
from mmseg_kd.losses.functional import (
    as_list,
    at_least_float32,
    confidence,
    resize_label,
    standardised_pixels,
)
from mmseg_kd.losses.logit_maps import LogitMaps

Resolution = Literal['label', 'student', 'teacher']


class LogitLoss(BaseLoss, ABC):
    """A divergence between the student's map and the teacher's, from softmax distributions.

    Args:
        tau: Temperature, > 0.
        tau_squared: Multiply by tau squared, which keeps the gradient's size as tau grows
            (Hinton et al., Distilling the Knowledge in a Neural Network, 2015, arXiv
            1503.02531, section 2).
        resolution: Where the softmax is taken: at the size of the labels, of the student's
            map or of the teacher's. Both maps go there by bilinear interpolation, labels by
            nearest neighbour.
        ignore_index: Pixels with this label take no part. None: all take part.
        standardise: Give the channels of each pixel mean 0 and standard deviation 1, so that a
            student need not reach the size of the teacher's scores (Sun et al., Logit
            Standardization in Knowledge Distillation, CVPR 2024, arXiv 2403.01427, eq. 7). At the
            maps' own sizes, before the interpolation: between two pixels of sure and opposite
            scores there remain small ones. Of two channels only their order is left.
        min_confidence: Pixels take no part where the teacher's largest probability, at tau 1, is
            below it; 0 to 1. It is looked at at the size of the teacher's own map, and goes to the
            others by nearest neighbour; of several teachers all must be sure.

    Raises:
        ValueError: An argument is out of its range.
    """

    # Whether `forward` takes the maps of several teachers and averages their distributions.
    averages_teachers = True

    def __init__(
        self,
        tau: float = 1.0,
        tau_squared: bool = False,
        resolution: Resolution = 'label',
        ignore_index: int | None = None,
        standardise: bool = False,
        min_confidence: float = 0.0,
    ) -> None:
        super().__init__()
        if not (ignore_index is None or is_integer(ignore_index)):
            raise ValueError(
                f'ignore_index must be None or a whole number, got {short_repr(ignore_index)}.'
            )
        self.tau = positive('tau', tau)
        self.tau_squared = true_or_false('tau_squared', tau_squared)
        self.resolution = one_of('resolution', resolution, get_args(Resolution))
        self.ignore_index = ignore_index
        self.standardise = true_or_false('standardise', standardise)
        self.min_confidence = fraction('min_confidence', min_confidence)

    def forward(
        self,
        student_NChw: Tensor,
        teacher_NChw: Tensor | Sequence[Tensor],
        label_NHW: Tensor | None = None,
    ) -> Tensor:
        """The loss, a scalar of at least float32; the gradient goes to the student alone.

        Shape:
            - student_NChw: (N, C, h, w).
            - teacher_NChw: (N, C, h', w'), or several of these, one a teacher, where the loss
              averages distributions; 'teacher' in `resolution` is then the first.
            - label_NHW: (N, H, W) integers; needed for resolution 'label' and ignore_index.

        Raises:
            ValueError: Shapes do not match, or labels are needed and not given.
        """
        teachers_NChw = as_list(teacher_NChw)
        if not teachers_NChw or (len(teachers_NChw) > 1 and not self.averages_teachers):
            raise ValueError(
                f'{type(self).__name__} must have the map of one teacher, got '
                f'{len(teachers_NChw)} maps.'
            )
        for teacher_NChw in teachers_NChw:
            check_maps(student_NChw, teacher_NChw)
        n = len(student_NChw)
        if label_NHW is not None and (label_NHW.ndim != 3 or len(label_NHW) != n):
            raise ValueError(f'labels must be (N, H, W) with N={n}, got {tuple(label_NHW.shape)}.')
        with torch.autocast(student_NChw.device.type, enabled=False):
            student_NChw = at_least_float32(student_NChw)
            teachers_NChw = [t.detach().to(student_NChw.dtype) for t in teachers_NChw]
            return self.loss(self._maps(student_NChw, teachers_NChw, label_NHW))

    def loss(self, maps: LogitMaps) -> Tensor:
        """The divergence with what all losses of this kind have around it.

        Autocast is off inside.

        Args:
            maps: What is compared, as the layers put it out.

        Raises:
            ValueError: There is one channel, which cannot be standardised.
        """
        if self.standardise:
            if maps.student_NChw.shape[1] == 1:
                raise ValueError('standardise needs two channels or more, got 1.')
            maps = maps.changed(standardised_pixels)
        loss = self.divergence(maps)
        return loss * self.tau**2 if self.tau_squared else loss

    def _maps(
        self, student_NChw: Tensor, teachers_NChw: Sequence[Tensor], label_NHW: Tensor | None
    ) -> LogitMaps:
        size = self._size(student_NChw, teachers_NChw[0], label_NHW)
        if label_NHW is not None:
            label_NHW = resize_label(label_NHW, size)
        mask_NHW = None
        if self.ignore_index is not None:
            if label_NHW is None:
                raise ValueError('ignore_index needs labels, got none.')
            mask_NHW = label_NHW != self.ignore_index
        if self.min_confidence:
            for teacher_NChw in teachers_NChw:
                sure_Nhw = confidence(teacher_NChw) >= self.min_confidence
                sure_NHW = resize_label(sure_Nhw, size)
                mask_NHW = sure_NHW if mask_NHW is None else mask_NHW & sure_NHW
        return LogitMaps(student_NChw, teachers_NChw, size, mask_NHW, label_NHW)

    def _size(self, student: Tensor, teacher: Tensor, label: Tensor | None) -> tuple[int, int]:
        chosen = {'label': label, 'student': student, 'teacher': teacher}[self.resolution]
        if chosen is None:
            raise ValueError("resolution 'label' needs labels, got none.")
        h, w = chosen.shape[-2:]
        return h, w

    @abstractmethod
    def divergence(self, maps: LogitMaps) -> Tensor:
        """The divergence of the maps brought to `maps.size`, over the pixels of `maps.mask_NHW`.

        Autocast is off inside.

        Args:
            maps: What is compared.
        """
