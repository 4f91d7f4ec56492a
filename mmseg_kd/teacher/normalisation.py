"""From images normalised for the student to images normalised for the teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Normalisation:
    """From images normalised for the student to images normalised for the teacher.

    With x = (raw - mean) / std on either side this is one affine map per channel. Channels
    are swapped where one network takes RGB and the other BGR, and padding gets the teacher's
    padding value.

    Args:
        student, teacher: mmseg's data preprocessors of the two networks.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        mean_s, std_s, flip_s = _statistics(student)
        mean_t, std_t, flip_t = _statistics(teacher)
        self._flip = flip_s != flip_t
        if self._flip:
            mean_s, std_s = mean_s.flip(0), std_s.flip(0)
        self._scale = (std_s / std_t).float().view(1, -1, 1, 1)
        self._shift = ((mean_s - mean_t) / std_t).float().view(1, -1, 1, 1)
        self._pad = float(getattr(teacher, 'pad_val', 0))
        self._is_same = (
            bool((self._scale == 1).all() and (self._shift == 0).all())
            and float(getattr(student, 'pad_val', 0)) == self._pad
        )

    def __call__(self, images_NCHW: Tensor, data_samples: Sequence[Any]) -> Tensor:
        if self._flip:
            images_NCHW = images_NCHW.flip(1)
        if self._is_same:
            return images_NCHW
        scale, shift = self._scale.to(images_NCHW), self._shift.to(images_NCHW)
        images_NCHW = torch.addcmul(shift, images_NCHW, scale)
        height, width = images_NCHW.shape[-2:]
        for image, sample in zip(images_NCHW, data_samples, strict=False):
            left, right, top, bottom = sample.metainfo.get('padding_size', (0, 0, 0, 0))
            image[:, :top] = self._pad
            image[:, height - bottom :] = self._pad
            image[:, :, :left] = self._pad
            image[:, :, width - right :] = self._pad
        return images_NCHW


def _statistics(preprocessor: Any) -> tuple[Tensor, Tensor, bool]:
    """Mean and std (C,) in float64, and whether channels are swapped after loading."""
    flip = bool(getattr(preprocessor, '_channel_conversion', False))
    if not getattr(preprocessor, '_enable_normalize', False):
        return torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64), flip
    mean, std = preprocessor.mean, preprocessor.std
    return mean.detach().double().flatten().cpu(), std.detach().double().flatten().cpu(), flip
