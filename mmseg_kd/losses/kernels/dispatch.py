"""Divergences at the size that a loss asks for, each by the backend that costs least."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import Any

from mmengine.logging import print_log
from torch import Tensor

from mmseg_kd.losses import functional
from mmseg_kd.losses.functional import as_list
from mmseg_kd.losses.kernels import piecewise
from mmseg_kd.losses.kernels.eager import eager


@eager
def pixel_divergence_at(
    student_NChw: Tensor,
    teacher_NChw: Tensor,
    *,
    size: tuple[int, int],
    tau: float,
    mask_NHW: Tensor | None = None,
) -> Tensor:
    """`functional.pixel_divergence` of the maps brought to `size`; arguments as there.

    Of one teacher: for several see `LogitMaps`.
    """
    loss: Tensor = backend_of(student_NChw, teacher_NChw).pixel_divergence(
        student_NChw, teacher_NChw, size=size, tau=tau, mask_NHW=mask_NHW
    )
    return loss


@eager
def group_divergence_at(
    student_NChw: Tensor,
    teacher_NChw: Tensor | Sequence[Tensor],
    *,
    size: tuple[int, int],
    group_size: int,
    tau: float,
    mask_NHW: Tensor | None = None,
) -> Tensor:
    """`functional.group_divergence` of the maps brought to `size`; arguments as there."""
    options: dict[str, Any] = dict(size=size, group_size=group_size, tau=tau, mask_NHW=mask_NHW)
    teachers_NChw = as_list(teacher_NChw)
    if len(teachers_NChw) > 1:
        # The mean of several teachers' distributions needs them all at once.
        _say_once(
            'Over the pixels of channels the mean of several teachers is computed by the plain '
            'formula, from maps at the size of the labels.'
        )
        return functional.group_divergence(student_NChw, teachers_NChw, **options)
    (teacher_NChw,) = teachers_NChw
    loss: Tensor = backend_of(student_NChw, teacher_NChw).group_divergence(
        student_NChw, teacher_NChw, **options
    )
    return loss


def backend_of(*maps_NChw: Tensor) -> ModuleType:
    """The module whose losses take single maps in the least time."""
    if not maps_NChw[0].is_cuda:
        return piecewise
    # Triton takes long to import, and is of use on a GPU alone.
    from mmseg_kd.losses.kernels import triton_divergence

    if triton_divergence.can_take(*maps_NChw):
        return triton_divergence
    _say_once(
        f'Maps of {maps_NChw[0].dtype} on {maps_NChw[0].device} are not for the kernels of the '
        'losses: these are computed in pieces, by plain operations.'
    )
    return piecewise


@cache
def _say_once(line: str) -> None:
    print_log(line, logger='current')
