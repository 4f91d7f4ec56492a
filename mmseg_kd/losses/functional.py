"""Formulas of the losses, as functions of tensors.

Shapes: N images, C channels, h x w the size of a map, H x W that of the labels, G groups,
K the positions that one softmax runs over.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Half-precision tensors as float32, others as they are: exponentials need the range."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def resize_map(x_NChw: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear interpolation (align_corners=False) to `size` (height, width)."""
    if x_NChw.shape[-2:] == size:
        return x_NChw
    return F.interpolate(x_NChw, size=size, mode='bilinear', align_corners=False)


def resize_label(label_NHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Nearest-neighbour interpolation of class indices to `size` (height, width)."""
    if label_NHW.shape[-2:] == size:
        return label_NHW
    # float64 holds every index exactly; interpolate takes no integers.
    label = F.interpolate(label_NHW[:, None].double(), size=size, mode='nearest')
    return label[:, 0].to(label_NHW.dtype)


def softmax_divergence(
    student: Tensor, teacher: Tensor, tau: float, dim: int, mask: Tensor | None = None
) -> Tensor:
    """KL(teacher || student) in nats between softmax distributions over dimension `dim`.

    Args:
        student, teacher: Logits of one shape.
        tau: Temperature, > 0: both are softmax(x / tau).
        mask: Booleans that broadcast to the logits, true where a position takes part. Others
            have probability zero on both sides. Where none takes part the divergence is 0.

    Returns:
        Divergences, of the logits' shape without `dim`.
    """
    student, teacher = student / tau, teacher / tau
    if mask is not None:
        # A finite floor: with -inf a row without any position would be 0/0.
        floor = torch.finfo(student.dtype).min
        student = student.masked_fill(~mask, floor)
        teacher = teacher.masked_fill(~mask, floor)
    log_p_student = student.log_softmax(dim)
    log_p_teacher = teacher.log_softmax(dim)
    terms = log_p_teacher.exp() * (log_p_teacher - log_p_student)
    if mask is not None:
        terms = terms.masked_fill(~mask, 0.0)
    return terms.sum(dim)


def pixel_divergence(
    student_NChw: Tensor, teacher_NChw: Tensor, tau: float, mask_Nhw: Tensor | None = None
) -> Tensor:
    """KL(teacher || student) over the channels of each pixel, mean over the pixels of `mask`."""
    divergence_Nhw = softmax_divergence(student_NChw, teacher_NChw, tau, dim=1)
    if mask_Nhw is None:
        return divergence_Nhw.mean()
    return divergence_Nhw.masked_fill(~mask_Nhw, 0.0).sum() / mask_Nhw.sum().clamp(min=1)


def group_divergence(
    student_NChw: Tensor,
    teacher_NChw: Tensor,
    group_size: int,
    tau: float,
    mask_Nhw: Tensor | None = None,
) -> Tensor:
    """KL(teacher || student) over all values of a group of channels, mean over groups and images.

    Channels are taken in consecutive groups of `group_size`; a last group that is not full
    has the channels that are there. One softmax runs over the (channels in the group) x h x w
    values of a group.
    """
    n, c, h, w = student_NChw.shape
    full = c // group_size * group_size
    total = student_NChw.new_zeros(())
    for begin, end, size in ((0, full, group_size), (full, c, c - full)):
        if begin == end:
            continue
        shape = (n, (end - begin) // size, size * h * w)
        mask = None
        if mask_Nhw is not None:
            mask = mask_Nhw[:, None].expand(n, size, h, w).reshape(n, 1, size * h * w)
        divergence_NG = softmax_divergence(
            student_NChw[:, begin:end].reshape(shape),
            teacher_NChw[:, begin:end].reshape(shape),
            tau,
            dim=-1,
            mask=mask,
        )
        total = total + divergence_NG.sum()
    groups = -(-c // group_size)
    return total / (n * groups)
