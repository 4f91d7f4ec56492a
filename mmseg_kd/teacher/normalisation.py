"""From images normalised for the student to images normalised for the teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmseg_kd.networks.network import Preprocessing


class Normalisation:
    """Undoes the student's preprocessing of images and does the teacher's.

    With x = (raw - mean) / std on either side this is one affine map per channel. Channels
    are swapped where one network takes RGB and the other BGR, and padding gets the teacher's
    padding value.

    Args:
        student, teacher: What their images have gone through.
    """

    def __init__(self, student: Preprocessing, teacher: Preprocessing) -> None:
        mean_s, std_s, mean_t, std_t = (
            torch.tensor(values, dtype=torch.float64)
            for values in (student.mean, student.std, teacher.mean, teacher.std)
        )
        self._flip = student.swaps_channels != teacher.swaps_channels
        if self._flip:
            mean_s, std_s = mean_s.flip(0), std_s.flip(0)
        self._scale = (std_s / std_t).float().view(1, -1, 1, 1)
        self._shift = ((mean_s - mean_t) / std_t).float().view(1, -1, 1, 1)
        self._pad = teacher.pad_value
        is_identity = bool((self._scale == 1).all() and (self._shift == 0).all())
        self._is_same = is_identity and student.pad_value == teacher.pad_value

    def __call__(self, images_NCHW: Tensor, data_samples: Sequence[Any] = ()) -> Tensor:
        """Images for the teacher.

        Args:
            images_NCHW: Images for the student.
            data_samples: Theirs, of mmseg; `padding_size` in the metainfo says what is padding.
        """
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
