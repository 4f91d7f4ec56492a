"""What the losses between two maps of features have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, get_args

import torch
from torch import Tensor

from mmseg_kd.checks import at_least_one, one_of
from mmseg_kd.losses.base_loss import BaseLoss, check_maps
from mmseg_kd.losses.functional import at_least_float32, resize_map

Resolution = Literal['student', 'teacher']


class FeatureMapLoss(BaseLoss, ABC):
    """A distance between the student's map and the teacher's.

    Args:
        resolution: Where they are compared: at the size of the student's map or of the
            teacher's. The other goes there by bilinear interpolation.

    Raises:
        ValueError: An argument is out of its range.
    """

    # Whether both maps must have the same number of channels; where not, a term adds no connector
    # by itself.
    needs_same_channels = True

    def __init__(self, resolution: Resolution = 'student') -> None:
        super().__init__()
        self.resolution = one_of('resolution', resolution, get_args(Resolution))

    def forward(
        self, student_NChw: Tensor, teacher_NChw: Tensor, label_NHW: Tensor | None = None
    ) -> Tensor:
        """The loss, a scalar of at least float32.

        The gradient goes to the student, and to the loss's own parameters where it has any.

        Shape:
            - student_NChw: (N, C, h, w).
            - teacher_NChw: (N, C, h', w').
            - label_NHW: (N, H, W) integers; most have no use for it.

        Raises:
            ValueError: Shapes do not match.
        """
        check_maps(student_NChw, teacher_NChw, self.needs_same_channels)
        with torch.autocast(student_NChw.device.type, enabled=False):
            student_NChw = at_least_float32(student_NChw)
            teacher_NChw = teacher_NChw.detach().to(student_NChw.dtype)
            if self.resolution == 'student':
                teacher_NChw = resize_map(teacher_NChw, student_NChw.shape[-2:])
            else:
                student_NChw = resize_map(student_NChw, teacher_NChw.shape[-2:])
            return self.distance(student_NChw, teacher_NChw, label_NHW)

    @abstractmethod
    def distance(
        self, student_NChw: Tensor, teacher_NChw: Tensor, label_NHW: Tensor | None
    ) -> Tensor:
        """The loss of maps of one size and of at least float32, with autocast off.

        Args:
            student_NChw: The student's.
            teacher_NChw: The teacher's, without gradient.
            label_NHW: Class indices, at a size of their own.
        """


class LearningFeatureMapLoss(FeatureMapLoss):
    """A distance with tensors of its own, made for the channels of the maps.

    A subclass ends its `__init__` with `self.use_channels(channels)`.
    """

    # Whether it has such tensors at all.
    learns = True

    def __init__(self, resolution: Resolution = 'student') -> None:
        super().__init__(resolution)
        self.channels: int | None = None

    def use_channels(self, channels: int | None) -> None:
        """Make what the loss learns.

        Args:
            channels: Of the maps. None: a term says it when it has seen its layers.

        Raises:
            ValueError: It is no whole number >= 1, or cannot be.
        """
        if channels is not None and self.learns:
            self.make(at_least_one('channels', channels))
            self.channels = channels

    def check_channels(self, channels: int) -> None:
        """Use these, or see that they are those in use.

        Args:
            channels: Of the maps.

        Raises:
            ValueError: They are not.
        """
        if self.channels is None:
            self.use_channels(channels)
        if self.learns and self.channels != channels:
            raise ValueError(
                f'channels={self.channels}, but the maps have {channels}; write '
                f'channels={channels}, or leave it out.'
            )

    @abstractmethod
    def make(self, channels: int) -> None:
        """Make what the loss learns.

        Args:
            channels: Of the maps.
        """

    def forward(
        self, student_NChw: Tensor, teacher_NChw: Tensor, label_NHW: Tensor | None = None
    ) -> Tensor:
        """As in `FeatureMapLoss`."""
        if self.learns and self.channels is None:
            raise ValueError(f'channels must be given: the maps have {student_NChw.shape[1]}.')
        self.check_channels(student_NChw.shape[1])
        return super().forward(student_NChw, teacher_NChw, label_NHW)
