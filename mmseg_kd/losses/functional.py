"""Formulas of the losses, as functions of tensors.

Shapes: N images, C channels, h x w the size of a map, H x W that of labels and masks, where maps
are compared, G groups, K the positions that one softmax runs over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Entries of a matrix of relations that are held at a time: 16 MiB in float32.
RELATIONS_HELD = 2**22


def at_least_float32(x: Tensor) -> Tensor:
    """Half-precision tensors as float32, others as they are: exponentials need the range."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def resize_map(x_NChw: Tensor, size: tuple[int, ...]) -> Tensor:
    """Bilinear interpolation (align_corners=False) to `size` (height, width)."""
    if x_NChw.shape[-2:] == size:
        return x_NChw
    return F.interpolate(x_NChw, size=size, mode='bilinear', align_corners=False)


def resize_label(label_NHW: Tensor, size: tuple[int, ...]) -> Tensor:
    """Nearest-neighbour interpolation of class indices, or booleans, to `size` (height, width)."""
    if label_NHW.shape[-2:] == size:
        return label_NHW
    # float64 holds every index exactly; of integers interpolate takes those of 8 bits alone.
    plain = label_NHW.byte() if label_NHW.dtype == torch.bool else label_NHW.double()
    label = F.interpolate(plain[:, None], size=size, mode='nearest')
    return label[:, 0].to(label_NHW.dtype)


def confidence(x_NChw: Tensor) -> Tensor:
    """The largest probability (N, h, w) of each pixel of a map of logits.

    One channel x is a sigmoid's, whose two probabilities are those of x and -x.
    """
    if x_NChw.shape[1] == 1:
        return x_NChw[:, 0].abs().sigmoid()
    return (x_NChw.amax(1) - x_NChw.logsumexp(1)).exp()


def mean_log_softmax(logits: Sequence[Tensor], dim: int) -> Tensor:
    """The logarithm of the mean of several softmax distributions over dimension `dim`."""
    mean = logits[0].log_softmax(dim)
    for other in logits[1:]:
        mean = torch.logaddexp(mean, other.log_softmax(dim))
    return mean - math.log(len(logits))


def as_list(teacher: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """The maps of one teacher or of several."""
    return [teacher] if isinstance(teacher, Tensor) else list(teacher)


def softmax_divergence(
    student: Tensor,
    teacher: Tensor | Sequence[Tensor],
    *,
    tau: float,
    dim: int,
    mask: Tensor | None = None,
) -> Tensor:
    """KL(teacher || student) in nats between softmax distributions over dimension `dim`.

    Args:
        student: Logits.
        teacher: Logits of the same shape; or those of several teachers, whose distributions are
            averaged.
        tau: Temperature, > 0: all are softmax(x / tau).
        dim: The dimension.
        mask: Booleans that broadcast to the logits, true where a position takes part. Others
            have probability zero on both sides. Where none takes part the divergence is 0.

    Returns:
        Divergences, of the logits' shape without `dim`.
    """
    student, teachers = student / tau, [x / tau for x in as_list(teacher)]
    if mask is not None:
        # A finite floor: with -inf a row without any position would be 0/0.
        floor = torch.finfo(student.dtype).min
        student = student.masked_fill(~mask, floor)
        teachers = [x.masked_fill(~mask, floor) for x in teachers]
    log_p_student = student.log_softmax(dim)
    log_p_teacher = mean_log_softmax(teachers, dim)
    terms = log_p_teacher.exp() * (log_p_teacher - log_p_student)
    if mask is not None:
        terms = terms.masked_fill(~mask, 0.0)
    return terms.sum(dim)


def standardised_pixels(x_NChw: Tensor, eps: float = 1e-7) -> Tensor:
    """The channels of each pixel with mean 0 and standard deviation 1 (that of a sample, C - 1).

    Where they differ by less than `eps` they are 0, without gradient.
    """
    deviation_N1hw = x_NChw.std(1, keepdim=True)
    deviation_N1hw = deviation_N1hw.masked_fill(deviation_N1hw < eps, math.inf)
    standard: Tensor = (x_NChw - x_NChw.mean(1, keepdim=True)) / (deviation_N1hw + eps)
    return standard


def is_own_class(label_N1HW: Tensor, x_NCHW: Tensor) -> Tensor:
    """Whether each channel of a map is the class of the pixel's label, booleans (N, C, H, W)."""
    return label_N1HW.eq(torch.arange(x_NCHW.shape[1], device=x_NCHW.device).view(-1, 1))


def masked_mean(x: Tensor, mask: Tensor | None) -> Tensor:
    """The mean of `x` where `mask` is true, 0 where it is nowhere; None: of all."""
    if mask is None:
        return x.mean()
    return x.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)


def pixel_divergence(
    student_NChw: Tensor,
    teacher_NChw: Tensor | Sequence[Tensor],
    *,
    size: tuple[int, int] | None = None,
    tau: float,
    mask_NHW: Tensor | None = None,
) -> Tensor:
    """KL(teacher || student) over the channels of each pixel, mean over the pixels of the mask.

    Args:
        student_NChw: Logits.
        teacher_NChw: Logits; or those of several teachers, whose distributions are averaged.
        size: Height and width that all are brought to by bilinear interpolation. None: they have
            one size.
        tau: Temperature, > 0.
        mask_NHW: Booleans, true where a pixel takes part. None: everywhere.
    """
    student_NCHW, *teachers_NCHW = _at(size, student_NChw, teacher_NChw)
    divergence_NHW = softmax_divergence(student_NCHW, teachers_NCHW, tau=tau, dim=1)
    return masked_mean(divergence_NHW, mask_NHW)


def group_divergence(
    student_NChw: Tensor,
    teacher_NChw: Tensor | Sequence[Tensor],
    *,
    size: tuple[int, int] | None = None,
    group_size: int,
    tau: float,
    mask_NHW: Tensor | None = None,
) -> Tensor:
    """KL(teacher || student) over all values of a group of channels, mean over groups and images.

    Channels are taken in consecutive groups of `group_size`; a last group that is not full
    has the channels that are there. One softmax runs over the (channels in the group) x H x W
    values of a group.

    Args:
        student_NChw, teacher_NChw, size, tau, mask_NHW: As in `pixel_divergence`.
        group_size: Channels in a group, >= 1.
    """
    student_NCHW, *teachers_NCHW = _at(size, student_NChw, teacher_NChw)
    n, c, height, width = student_NCHW.shape
    full = c // group_size * group_size
    total = student_NCHW.new_zeros(())
    for begin, end, channels in ((0, full, group_size), (full, c, c - full)):
        if begin == end:
            continue
        k = channels * height * width
        shape_NGK = (n, (end - begin) // channels, k)
        mask_N1K = None
        if mask_NHW is not None:
            mask_N1K = mask_NHW[:, None].expand(n, channels, height, width).reshape(n, 1, k)
        divergence_NG = softmax_divergence(
            student_NCHW[:, begin:end].reshape(shape_NGK),
            [x_NCHW[:, begin:end].reshape(shape_NGK) for x_NCHW in teachers_NCHW],
            tau=tau,
            dim=-1,
            mask=mask_N1K,
        )
        total = total + divergence_NG.sum()
    groups = -(-c // group_size)
    return total / (n * groups)


def _at(
    size: tuple[int, int] | None, student_NChw: Tensor, teacher_NChw: Tensor | Sequence[Tensor]
) -> list[Tensor]:
    """The student's map, then the teachers', all at `size`."""
    maps_NChw = [student_NChw, *as_list(teacher_NChw)]
    return maps_NChw if size is None else [resize_map(x, size) for x in maps_NChw]


def class_similarity(x_NChw: Tensor, label_Nhw: Tensor, num_classes: int) -> Tensor:
    """Cosine similarity of each pixel's channels with their mean over its class in its image.

    Args:
        x_NChw: A map.
        label_Nhw: Labels at its size. Those outside 0 to `num_classes` - 1 are no class.
        num_classes: The number of classes.

    Returns:
        Similarities (N, h, w); 1 where a pixel has no class.
    """
    n, c, h, w = x_NChw.shape
    is_class_P = ((label_Nhw >= 0) & (label_Nhw < num_classes)).flatten()
    # P pixels of all images; a segment is one class of one image, and one more takes the rest.
    image_N11 = torch.arange(n, device=label_Nhw.device).view(n, 1, 1)
    segment_P = (image_N11 * num_classes + label_Nhw).flatten()
    segment_P = segment_P.masked_fill(~is_class_P, n * num_classes)
    x_PC = x_NChw.permute(0, 2, 3, 1).reshape(-1, c)
    # The cosine with a class's sum is that with its mean.
    sum_SC = x_PC.new_zeros(n * num_classes + 1, c).index_add(0, segment_P, x_PC)
    dot_P = (x_PC * sum_SC[segment_P]).sum(1)
    length_P = x_PC.norm(dim=1).clamp(min=1e-8)
    sum_length_P = sum_SC.norm(dim=1).clamp(min=1e-8)[segment_P]
    similarity_P: Tensor = (dot_P / (length_P * sum_length_P)).masked_fill(~is_class_P, 1.0)
    return similarity_P.view(n, h, w)


def unit_length(x: Tensor, dim: int | tuple[int, ...] = 1, eps: float = 1e-12) -> Tensor:
    """`x` divided by its L2 norm over `dim`; what is shorter than `eps` is 0, without gradient."""
    length = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    unit: Tensor = x / length.masked_fill(length < eps, math.inf)
    return unit


def standardise(x_NChw: Tensor, eps: float = 1e-6) -> Tensor:
    """Each channel with mean 0 and standard deviation 1 over the positions of the batch.

    The deviation is that of a sample (with n - 1), plus `eps`. A channel that is the same
    everywhere is 0, without gradient.
    """
    n, _, h, w = x_NChw.shape
    centred_NChw = x_NChw - x_NChw.mean((0, 2, 3), keepdim=True)
    length_1C11 = torch.linalg.vector_norm(centred_NChw, dim=(0, 2, 3), keepdim=True)
    deviation_1C11 = (
        length_1C11.masked_fill(length_1C11 == 0, math.inf) / max(n * h * w - 1, 1) ** 0.5
    )
    standard: Tensor = centred_NChw / (deviation_1C11 + eps)
    return standard


def sum_over_pieces(
    sum_of: Callable[..., Tensor], rows: Sequence[Tensor], others: Sequence[Tensor]
) -> Tensor:
    """The sum of `sum_of(*rows, *others)` over pieces of the rows.

    A piece is as many rows as have `RELATIONS_HELD` relations with the others, and is worked out
    again in the backward pass: no matrix of all rows with all others is ever held.
    """
    step = max(1, RELATIONS_HELD // max(1, len(others[0])))
    total = rows[0].new_zeros(())
    for piece in zip(*(x.split(step) for x in rows), strict=True):
        part: Tensor = checkpoint(
            sum_of, *piece, *others, use_reentrant=False, preserve_rng_state=False
        )
        total = total + part
    return total


def similarity_kl(
    student_PC: Tensor,
    teacher_PC: Tensor,
    student_AC: Tensor,
    teacher_AC: Tensor,
    *,
    tau: float,
    groups: int = 1,
) -> Tensor:
    """KL(teacher || student) between how like the anchors each position is, summed over positions.

    Args:
        student_PC, teacher_PC: Vectors of P positions.
        student_AC, teacher_AC: Those of A anchors. The channels of a side are of one number.
        tau: Temperature, > 0: the distribution is softmax(x a / tau) over the anchors a.
        groups: Over so many runs of anchors one softmax each, whose divergences are added.
    """

    def divergence(student_PC: Tensor, teacher_PC: Tensor, *anchors: Tensor) -> Tensor:
        ours_PGA, theirs_PGA = (
            (x_PC @ x_AC.T).unflatten(1, (groups, -1))
            for x_PC, x_AC in zip((student_PC, teacher_PC), anchors, strict=True)
        )
        return softmax_divergence(ours_PGA, theirs_PGA, tau=tau, dim=-1).sum()

    return sum_over_pieces(divergence, (student_PC, teacher_PC), (student_AC, teacher_AC))
