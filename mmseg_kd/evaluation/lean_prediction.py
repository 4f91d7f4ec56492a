"""Predicted classes without the scores of all classes at the size of the image.

mmseg scales the scores of all classes to the size of the network's input, then to that of the
image as it was, and takes the arg max over the classes. Interpolation treats every class on its
own, so a few classes at a time and a running maximum give the same result to the last bit, from
the same kernel, in the memory of a few maps.

A CPU looks first for the classes that can win at all, and scales those one by one. A GPU would have
to be waited for to know them: it scales all, in the registers of a kernel of `triton_arg_max`, or
else as many at a time as keep it busy.

Shapes: h x w the size that the head gives its scores in, H x W any later size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from mmengine.structures import PixelData
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.segmentors import EncoderDecoder
from torch import Tensor

from mmseg_kd.evaluation.scaling import Scaling
from mmseg_kd.networks.build import student_of

# Pixels of all scaled maps that a GPU works on at a time: 256 MiB of float32.
PIECE = 2**26
# Classes that a CPU finds the bounds of at a time, for its caches.
POOLED = 16
# Height + width of maps that mmseg's own way is taken for; torch's other kernel ends at 128.
SMALL = 256
# From this many pixels for each of the head's, finding the classes that can win costs about a
# twentieth of what it may save.
MANY_PIXELS = 4


def use_lean_prediction(model: Any) -> bool:
    """Let a segmentor predict classes without keeping their scores.

    Its results then have `pred_sem_seg`, equal to mmseg's to the pixel, and no `seg_logits`,
    unless the maps are small or lie in memory in an unusual way. Sliding windows, and heads with
    a `predict` of their own, give their scores as ever; only what follows is lean.
    `del network.predict` takes it back.

    Args:
        model: An EncoderDecoder, a DistillationWrapper around one, or either in DDP.

    Returns:
        Whether it was done. It is not, and nothing changes, for test-time augmentation, which
        averages the scores, for a network with one channel for two classes and for a class that
        predicts in a way of its own.
    """
    network: Any = student_of(model)
    if not isinstance(network, EncoderDecoder) or network.out_channels == 1:
        return False
    if not _inherits(network, EncoderDecoder, 'predict', 'inference', 'postprocess_result'):
        return False
    network.predict = MethodType(predict, network)
    return True


@contextmanager
def lean_prediction(network: Any) -> Iterator[None]:
    """Inside, a network predicts as after `use_lean_prediction`, if it can."""
    is_lean = use_lean_prediction(network)
    try:
        yield
    finally:
        if is_lean:
            del network.predict


def predict(network: Any, inputs: Tensor, data_samples: Sequence[Any] | None = None) -> Any:
    """`EncoderDecoder.predict` without `seg_logits`.

    Args:
        network: The segmentor.
        inputs: Images (N, 3, H, W), normalised.
        data_samples: One `SegDataSample` an image; None: mmseg's own way, scores included.

    Returns:
        The samples, with `pred_sem_seg` (1, H, W), int64, at the size of the original images.
    """
    if data_samples is None:
        return EncoderDecoder.predict(network, inputs)
    metas = [sample.metainfo for sample in data_samples]
    has_plain_head = _has_plain_head(network)
    if has_plain_head:
        scores_NChw = network.decode_head.forward(network.extract_feat(inputs))
        input_size = _input_size(metas[0])
    else:
        scores_NChw = network.inference(inputs, metas)
        input_size = _size(scores_NChw)
    if not _is_exact(scores_NChw, [input_size, *(meta['ori_shape'] for meta in metas)]):
        if has_plain_head:
            scores_NChw = network.decode_head.predict_by_feat(scores_NChw, metas)
        return network.postprocess_result(scores_NChw, data_samples)
    for scores_1Chw, sample, meta in zip(scores_NChw.split(1), data_samples, metas, strict=True):
        labels_HW = original_labels(network, scores_1Chw, input_size, meta)
        sample.set_data({'pred_sem_seg': PixelData(data=labels_HW[None])})
    return data_samples


@torch.no_grad()
def original_labels(
    network: Any, scores_1Chw: Tensor, input_size: tuple[int, int], meta: Mapping[str, Any]
) -> Tensor:
    """The classes (H, W) of one image at its original size, int64.

    Args:
        network: The segmentor.
        scores_1Chw: Of the head; on a CPU all finite.
        input_size: Height and width of the network's input, padding included.
        meta: Of the image, as mmseg's transforms leave it: padding, flip and original size.
    """
    size = _size(scores_1Chw)
    scaling = Scaling.of(size, input_size, meta, network.align_corners)
    original_size = scaling.original_size
    pixels = max(math.prod(input_size), math.prod(original_size))
    if scores_1Chw.is_cuda:
        # Triton takes long to import, and is of use on a GPU alone.
        from mmseg_kd.evaluation import triton_arg_max

        if triton_arg_max.can_take(scores_1Chw, scaling):
            return triton_arg_max.arg_max(scores_1Chw, scaling)[0]
        return arg_max_in_pieces(scores_1Chw, scaling, max(1, PIECE // pixels))
    classes: Sequence[int] = range(scores_1Chw.shape[1])
    if pixels >= MANY_PIXELS * math.prod(size):
        # Each interpolation reaches one row and one column further, the second no more than
        # that if the first does not shrink.
        reach = (size != input_size) + (input_size != original_size)
        if reach == 1 or (size[0] <= input_size[0] and size[1] <= input_size[1]):
            classes = possible_classes(scores_1Chw[0], reach)
    return arg_max_one_by_one(scores_1Chw, scaling, classes)


def arg_max_in_pieces(
    scores_1Chw: Tensor, scaled: Callable[[Tensor], Tensor], at_once: int
) -> Tensor:
    """The class (H, W) with the highest scaled score; of equal ones the first, int64.

    NaN is above all, as for torch's `argmax`. Nothing waits for a GPU.

    Args:
        scores_1Chw: The scores.
        scaled: Brings maps (1, K, h, w) to (1, K, H, W).
        at_once: How many classes to scale at a time.
    """
    first_1Khw, *others = scores_1Chw.split(at_once, dim=1)
    if not others:
        return scaled(first_1Khw)[0].argmax(0)
    best_HW, label_HW = scaled(first_1Khw)[0].max(0)
    for index, part_1Khw in enumerate(others, start=1):
        value_HW, position_HW = scaled(part_1Khw)[0].max(0)
        stays_HW = (value_HW <= best_HW).logical_or_(best_HW.isnan())
        label_HW = torch.where(stays_HW, label_HW, position_HW.add_(index * at_once))
        best_HW = torch.maximum(best_HW, value_HW)
    return label_HW


def arg_max_one_by_one(
    scores_1Chw: Tensor, scaled: Callable[[Tensor], Tensor], classes: Sequence[int]
) -> Tensor:
    """The class (H, W) with the highest scaled score; of equal ones the first, int64.

    Args:
        scores_1Chw: The scores, all finite.
        scaled: Brings maps (1, K, h, w) to (1, K, H, W).
        classes: Those that may win, ascending.
    """
    # Copies: without scaling the maps are a part of the scores.
    first, *others = classes
    best_HW = scaled(scores_1Chw[:, first : first + 1])[0, 0].clone()
    # A narrow type: writing the winner is a good part of the work.
    dtype = torch.uint8 if classes[-1] < 256 else torch.int32
    label_HW = torch.full_like(best_HW, first, dtype=dtype)
    for one in others:
        value_HW = scaled(scores_1Chw[:, one : one + 1])[0, 0]
        label_HW.masked_fill_(value_HW > best_HW, one)
        torch.maximum(best_HW, value_HW, out=best_HW)
    return label_HW.long()


def possible_classes(scores_Chw: Tensor, reach: int) -> list[int]:
    """The classes that may win somewhere after bilinear scaling, ascending.

    A scaled score lies between the lowest and the highest of the scores that it is made of, so
    that a class whose highest is everywhere below the lowest of another one cannot win.

    Args:
        scores_Chw: The scores, all finite.
        reach: A scaled score is made of squares of this many plus one pixels a side at most.
    """
    size = _size(scores_Chw)
    if min(size) <= reach:
        return list(range(len(scores_Chw)))
    # More than all roundings of two interpolations.
    slack = 16 * torch.finfo(scores_Chw.dtype).eps * _bound(scores_Chw)
    parts = scores_Chw.split(POOLED)
    sure_hw = torch.stack([_pooled(x, torch.minimum, reach).amax(0) for x in parts]).amax(0) - slack
    hopeless = [(_pooled(x, torch.maximum, reach) < sure_hw).flatten(1).all(1) for x in parts]
    found: list[int] = torch.cat(hopeless).logical_not().nonzero().flatten().tolist()
    return found


def _pooled(x_Chw: Tensor, extreme: Callable[[Tensor, Tensor], Tensor], reach: int) -> Tensor:
    """The `extreme` of every square of `reach` + 1 pixels a side."""
    for _ in range(reach):
        x_Chw = extreme(x_Chw[:, 1:], x_Chw[:, :-1])
        x_Chw = extreme(x_Chw[:, :, 1:], x_Chw[:, :, :-1])
    return x_Chw


def _has_plain_head(network: Any) -> bool:
    """Whether the network scales the scores of its head to the input and does no more."""
    return (
        network.test_cfg.get('mode', 'whole') == 'whole'
        and isinstance(network.decode_head, BaseDecodeHead)
        and _inherits(network, EncoderDecoder, 'whole_inference', 'encode_decode')
        and _inherits(network.decode_head, BaseDecodeHead, 'predict', 'predict_by_feat')
    )


def _inherits(instance: Any, base: type, *methods: str) -> bool:
    """Whether the class of `instance` has these methods from `base` as they are."""
    return all(getattr(type(instance), name) is getattr(base, name) for name in methods)


def _input_size(meta: Mapping[str, Any]) -> tuple[int, int]:
    """The size that `BaseDecodeHead.predict_by_feat` scales to."""
    size = meta['img_shape']
    if not isinstance(size, torch.Size):
        size = meta.get('pad_shape', size)
    return int(size[0]), int(size[1])


def _is_exact(scores_NChw: Tensor, sizes: Sequence[Sequence[int]]) -> bool:
    """Whether scaling some classes to `sizes` gives what scaling all at once does.

    torch has two kernels. The one for channels last, and on a CPU for all of the smallest maps,
    rounds by how many channels there are. With NaN and infinity a CPU changes maps that it scales
    to the same size, which is left out here.
    """
    if not scores_NChw.is_contiguous() or scores_NChw.is_contiguous(
        memory_format=torch.channels_last
    ):
        return False
    if scores_NChw.is_cuda:
        return True
    return min(map(sum, sizes)) > SMALL and bool(_bound(scores_NChw).isfinite())


def _bound(x: Tensor) -> Tensor:
    """The largest absolute value, or NaN."""
    return torch.maximum(x.amax(), -x.amin())


def _size(maps_NCHW: Tensor) -> tuple[int, int]:
    height, width = maps_NCHW.shape[-2:]
    return height, width
