"""The losses of maps that are brought to a size, each by the same steps on any backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mmseg_kd.losses.kernels import cross_entropy, divergence
from mmseg_kd.losses.kernels.divergence import Size


class Backend(divergence.Backend, cross_entropy.Backend, Protocol):
    """All that the losses ask of a backend."""


@dataclass(frozen=True)
class AtSize:
    """The losses on one backend.

    Attributes:
        backend: Makes it for a size, a mask (None: no pixel is left out) and `align_corners` as in
            torch.nn.functional.interpolate.
    """

    backend: Callable[[Size, Tensor | None, bool], Backend]

    def pixel_divergence(
        self,
        student_NChw: Tensor,
        teacher_NChw: Tensor,
        *,
        size: Size,
        tau: float,
        mask_NHW: Tensor | None = None,
        align_corners: bool = False,
    ) -> Tensor:
        """KL(teacher || student) over the channels of each pixel of the maps brought to `size`.

        The mean over the pixels of the mask; see `functional.pixel_divergence` for the formula.

        Args:
            student_NChw, teacher_NChw: Logits; their sizes may differ.
            size: Height and width that both are brought to by bilinear interpolation.
            tau: Temperature, > 0.
            mask_NHW: Booleans, true where a pixel takes part. None: everywhere.
            align_corners: As in torch.nn.functional.interpolate.
        """
        return self._divergence(
            student_NChw, teacher_NChw, size, None, tau, mask_NHW, align_corners
        )

    def group_divergence(
        self,
        student_NChw: Tensor,
        teacher_NChw: Tensor,
        *,
        size: Size,
        group_size: int,
        tau: float,
        mask_NHW: Tensor | None = None,
        align_corners: bool = False,
    ) -> Tensor:
        """KL(teacher || student) over all values of a group of channels of the maps at `size`.

        The mean over groups and images; see `functional.group_divergence` for the formula.

        Args:
            student_NChw, teacher_NChw, size, tau, mask_NHW, align_corners: As in
                `pixel_divergence`.
            group_size: Channels in a group; the last has those that are left.
        """
        return self._divergence(
            student_NChw, teacher_NChw, size, group_size, tau, mask_NHW, align_corners
        )

    def cross_entropy_sums(
        self,
        score_NChw: Tensor,
        label_NHW: Tensor,
        class_weight_C: Tensor | None = None,
        ignore_index: int = 255,
        align_corners: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """The sum of the cross-entropy, and how many pixels have their label's score largest.

        See `losses.cross_entropy.cross_entropy_sums` for the arguments.
        """
        size = (label_NHW.shape[1], label_NHW.shape[2])
        # Triton launches on the current device, wherever the tensors are.
        with torch.cuda.device_of(score_NChw):
            return cross_entropy.cross_entropy(
                score_NChw,
                label_NHW,
                self.backend(size, None, align_corners),
                class_weight_C=class_weight_C,
                ignore_index=ignore_index,
            )

    def _divergence(
        self,
        student_NChw: Tensor,
        teacher_NChw: Tensor,
        size: Size,
        group_size: int | None,
        tau: float,
        mask_NHW: Tensor | None,
        align_corners: bool,
    ) -> Tensor:
        # Triton launches on the current device, wherever the tensors are.
        with torch.cuda.device_of(student_NChw):
            return divergence.divergence(
                student_NChw,
                teacher_NChw,
                self.backend(size, mask_NHW, align_corners),
                size=size,
                group_size=group_size,
                tau=tau,
                mask_NHW=mask_NHW,
            )
