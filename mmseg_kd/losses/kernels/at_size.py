"""The losses of maps that are brought to a size, each by the same steps on any backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmseg_kd.losses.kernels.backend import Backend, Size
from mmseg_kd.losses.kernels.cross_entropy import CrossEntropy
from mmseg_kd.losses.kernels.divergence import Divergence


@dataclass(frozen=True)
class AtSize:
    """The losses on one backend.

    Attributes:
        backend: Its class.
    """

    backend: type[Backend]

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
        backend = self.backend(size, mask_NHW, align_corners)
        loss: Tensor = _applied(Divergence, student_NChw, teacher_NChw, backend, None, tau)
        return loss

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
        backend = self.backend(size, mask_NHW, align_corners)
        loss: Tensor = _applied(Divergence, student_NChw, teacher_NChw, backend, group_size, tau)
        return loss

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
        backend = self.backend((label_NHW.shape[1], label_NHW.shape[2]), None, align_corners)
        sums: tuple[Tensor, Tensor] = _applied(
            CrossEntropy, score_NChw, label_NHW, backend, class_weight_C, ignore_index
        )
        return sums


def _applied(function: type[torch.autograd.Function], x_NChw: Tensor, *arguments: Any) -> Any:
    # Triton launches on the current device, wherever the tensors are.
    with torch.cuda.device_of(x_NChw):
        return function.apply(x_NChw, *arguments)
