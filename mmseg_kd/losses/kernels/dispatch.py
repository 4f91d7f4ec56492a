"""Divergences at the size that a loss asks for, each by the backend that costs least."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from types import ModuleType

from mmengine.logging import print_log
from torch import Tensor

from mmseg_kd.losses import functional
from mmseg_kd.losses.functional import resize_map
from mmseg_kd.losses.kernels import piecewise, triton_divergence


def pixel_divergence_at(
    student_NChw: Tensor,
    teachers_NChw: Sequence[Tensor],
    size: tuple[int, int],
    tau: float,
    mask_NHW: Tensor | None,
) -> Tensor:
    """`functional.pixel_divergence` of the maps brought to `size`."""
    if len(teachers_NChw) == 1:
        (teacher_NChw,) = teachers_NChw
        backend = _backend(student_NChw, teacher_NChw)
        loss: Tensor = backend.pixel_divergence(student_NChw, teacher_NChw, size, tau, mask_NHW)
        return loss
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
        (teacher_NChw,) = teachers_NChw
        backend = _backend(student_NChw, teacher_NChw)
        loss: Tensor = backend.group_divergence(
            student_NChw, teacher_NChw, size, group_size, tau, mask_NHW
        )
        return loss
    return functional.group_divergence(
        resize_map(student_NChw, size), _resize_all(teachers_NChw, size), group_size, tau, mask_NHW
    )


def _backend(student_NChw: Tensor, teacher_NChw: Tensor) -> ModuleType:
    """The module whose divergences take these maps in the least time."""
    if triton_divergence.can_take(student_NChw, teacher_NChw):
        return triton_divergence
    if student_NChw.is_cuda:
        _say_once(
            f'Maps of {student_NChw.dtype} on {student_NChw.device} are not for the kernels of the '
            'distillation losses: they are compared in pieces, by plain operations.'
        )
    return piecewise


@cache
def _say_once(line: str) -> None:
    print_log(line, logger='current')


def _resize_all(maps_NChw: Sequence[Tensor], size: tuple[int, int]) -> list[Tensor]:
    # The mean of several teachers' distributions needs them all at once.
    _say_once(
        'The mean over several teachers is computed by the plain formula, from maps at the size '
        'of the labels.'
    )
    return [resize_map(x, size) for x in maps_NChw]
