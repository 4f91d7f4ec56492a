"""What a loss between maps is given: the maps, and where they are compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mmseg_kd.losses.functional import resize_map, softmax_divergence
from mmseg_kd.losses.kernels.dispatch import group_divergence_at, pixel_divergence_at
from mmseg_kd.losses.kernels.pixel_sums import Terms, pixel_sums

# `Terms` of one number a pixel, (R, 1, V).
Value = Callable[[Tensor, Sequence[Tensor], Tensor | None], Tensor]


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

    def by_class(self) -> LogitMaps:
        """These, with a channel for each class: of two for maps of one channel, the second.

        One channel x is that of a network which tells two classes apart by a sigmoid. The softmax
        of the two is (1 - p, p) with p = sigmoid(x), where over one it would always be 1.
        """
        return self.changed(_as_two_classes) if self.student_NChw.shape[1] == 1 else self

    def labelled(self) -> LogitMaps:
        """These by class, without the pixels whose label is none of the classes.

        Raises:
            ValueError: There are no labels.
        """
        if self.label_NHW is None:
            raise ValueError('labels are needed, got none.')
        maps = self.by_class()
        is_class_NHW = (self.label_NHW >= 0) & (self.label_NHW < maps.student_NChw.shape[1])
        return maps.where(is_class_NHW)

    def where(self, is_taken_NHW: Tensor) -> LogitMaps:
        """These, with the pixels of the mask alone for which `is_taken_NHW` is true too."""
        if self.mask_NHW is not None:
            is_taken_NHW = is_taken_NHW & self.mask_NHW
        return replace(self, mask_NHW=is_taken_NHW)

    def count(self) -> Tensor | int:
        """How many pixels of the batch take part, and 1 where none does."""
        if self.mask_NHW is None:
            return len(self.student_NChw) * self.size[0] * self.size[1]
        return self.mask_NHW.sum().clamp(min=1)

    def pixel_sums(self, terms: Terms, is_one: bool = False) -> Tensor:
        """The sums over each image's pixels of all that `terms` computes of a pixel, (N, K).

        In float64. No map at `size` is held.

        Args:
            terms, is_one: As in `kernels.pixel_sums`.
        """
        return pixel_sums(
            terms,
            self.student_NChw,
            self.teachers_NChw,
            size=self.size,
            mask_NHW=self.mask_NHW,
            label_NHW=self.label_NHW,
            is_one=is_one,
        )

    def pixel_mean(self, value: Value) -> Tensor:
        """The mean over the pixels of the mask of what `value` computes of a pixel.

        No map at `size` is held.

        Args:
            value: As the terms in `kernels.pixel_sums`, of which it is one.
        """
        sums_N1 = self.pixel_sums(lambda *maps: [value(*maps)], is_one=True)
        return (sums_N1.sum() / self.count()).to(self.student_NChw.dtype)

    def pixel_divergence(self, tau: float) -> Tensor:
        """KL(teacher || student) over the channels of each pixel, mean over the pixels of the mask.

        No map at `size` is held. Of one channel the distribution is that of `by_class`.

        Args:
            tau: Temperature, > 0.
        """
        maps = self.by_class()
        if len(maps.teachers_NChw) > 1:
            # The mean of their distributions has no formula without autograd.
            return maps.pixel_mean(
                lambda ours, theirs, _: softmax_divergence(ours, theirs, tau=tau, dim=1)[:, None]
            )
        return pixel_divergence_at(
            maps.student_NChw,
            maps.teachers_NChw[0],
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
    """Scores whose softmax is (1 - p, p) of p = sigmoid(x); linear, as the resizing is."""
    return torch.cat([torch.zeros_like(x_N1hw), x_N1hw], dim=1)
