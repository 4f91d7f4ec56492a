"""What a loss between maps is given: the maps, and where they are compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mmseg_kd.losses.functional import resize_map
from mmseg_kd.losses.kernels.dispatch import group_divergence_at, pixel_divergence_at


@dataclass(frozen=True)
class LogitMaps:
    """Maps of student and teachers, and where they are compared.

    Attributes:
        student_NChw: The student's, of at least float32.
        teachers_NChw: The teachers', of the student's dtype and without gradient, each of a size
            of its own; one, unless the loss averages teachers.
        size: Height and width that the maps are compared at.
        mask_NHW: Booleans at that size, true where a pixel takes part. None: everywhere.
        label_NHW: Class indices at that size. None: there are none.
    """

    student_NChw: Tensor
    teachers_NChw: Sequence[Tensor]
    size: tuple[int, int]
    mask_NHW: Tensor | None
    label_NHW: Tensor | None

    def changed(self, change: Callable[[Tensor], Tensor]) -> LogitMaps:
        """These, with `change` applied to each map of both sides.

        Args:
            change: From a map (N, C, h, w) to another.
        """
        return replace(
            self,
            student_NChw=change(self.student_NChw),
            teachers_NChw=[change(x) for x in self.teachers_NChw],
        )

    def resized(self) -> list[Tensor]:
        """The maps (N, C, H, W) at `size`, by bilinear interpolation: the student's first."""
        return [resize_map(x, self.size) for x in (self.student_NChw, *self.teachers_NChw)]

    def pixel_divergence(self, tau: float) -> Tensor:
        """KL(teacher || student) over the channels of each pixel, mean over the pixels of the mask.

        No map at `size` is held, unless there are several teachers. One channel x is that of a
        network which tells two classes apart by a sigmoid: the distribution is then (p, 1 - p)
        with p = sigmoid(x / tau), where a softmax over it would always be 1.

        Args:
            tau: Temperature, > 0.
        """
        maps = self.changed(_as_two_classes) if self.student_NChw.shape[1] == 1 else self
        return pixel_divergence_at(
            maps.student_NChw,
            maps.teachers_NChw,
            size=self.size,
            tau=tau,
            mask_NHW=self.mask_NHW,
        )

    def group_divergence(self, group_size: int, tau: float) -> Tensor:
        """KL(teacher || student) over all values of a group, mean over groups and images.

        No map at `size` is held, unless there are several teachers.

        Args:
            group_size: Channels in a group; the last has those that are left.
            tau: Temperature, > 0.
        """
        return group_divergence_at(
            self.student_NChw,
            self.teachers_NChw,
            size=self.size,
            group_size=group_size,
            tau=tau,
            mask_NHW=self.mask_NHW,
        )


def _as_two_classes(x_N1hw: Tensor) -> Tensor:
    """Scores whose softmax is the sigmoid of x and its complement; linear, as the resizing is."""
    return torch.cat([x_N1hw, torch.zeros_like(x_N1hw)], dim=1)
