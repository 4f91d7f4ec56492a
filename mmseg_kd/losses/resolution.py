"""Divergences at the size that a loss asks for, each in the way that costs least."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mmseg_kd.losses import functional, piecewise
from mmseg_kd.losses.functional import resize_map


def pixel_divergence_at(
    student_NChw: Tensor,
    teachers_NChw: Sequence[Tensor],
    size: tuple[int, int],
    tau: float,
    mask_NHW: Tensor | None,
) -> Tensor:
    """`functional.pixel_divergence` of the maps brought to `size`."""
    if len(teachers_NChw) == 1:
        return piecewise.pixel_divergence(student_NChw, teachers_NChw[0], size, tau, mask_NHW)
    return functional.pixel_divergence(
        resize_map(student_NChw, size), _resize_all(teachers_NChw, size), tau, mask_NHW
    )


def group_divergence_at(
    student_NChw: Tensor,
    teachers_NChw: Sequence[Tensor],
    size: tuple[int, int],
    group_size: int,
    tau: float,
    mask_NHW: Tensor | None,
) -> Tensor:
    """`functional.group_divergence` of the maps brought to `size`."""
    if len(teachers_NChw) == 1:
        return piecewise.group_divergence(
            student_NChw, teachers_NChw[0], size, group_size, tau, mask_NHW
        )
    return functional.group_divergence(
        resize_map(student_NChw, size), _resize_all(teachers_NChw, size), group_size, tau, mask_NHW
    )


def _resize_all(maps_NChw: Sequence[Tensor], size: tuple[int, int]) -> list[Tensor]:
    # The mean of several teachers' distributions needs them all at once.
    return [resize_map(x, size) for x in maps_NChw]
