"""Predicted classes without the scores of all classes at the size of the image.

mmseg scales the scores of all classes to the size of the network's input, then to that of the
image as it was, and takes the arg max over the classes. Interpolation treats every class on its
own, so a few classes at a time and a running maximum give the same result to the last bit, from
the same kernel, in the memory of a few maps.

Shapes: h x w the size that the head gives its scores in, H x W any later size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MethodType
from typing import Any

import torch
from mmengine.structures import PixelData
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.segmentors import EncoderDecoder
from mmseg.models.utils import resize
from torch import Tensor

from mmseg_kd.networks.build import student_of

# Pixels of all maps that a GPU works on at a time. On a CPU caches count: one class of the scaled
# maps at a time, and a few of the head's.
PIECE_CUDA = 2**23
POOLED_CPU = 16
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
        scores_1Chw: Of the head, all finite.
        input_size: Height and width of the network's input, padding included.
        meta: Of the image, as mmseg's transforms leave it: padding, flip and original size.
    """
    size, original_size = _size(scores_1Chw), tuple(meta['ori_shape'])

    def scaled(part_1Khw: Tensor) -> Tensor:
        maps = _resized(part_1Khw, input_size, network.align_corners)
        maps = _without_padding_and_flip(maps, meta)
        return _resized(maps, original_size, network.align_corners)

    classes: Sequence[int] = range(scores_1Chw.shape[1])
    pixels = max(math.prod(input_size), math.prod(original_size))
    if pixels >= MANY_PIXELS * math.prod(size):
        # Each interpolation reaches one row and one column further, the second no more than
        # that if the first does not shrink.
        reach = (size != input_size) + (input_size != original_size)
        if reach == 1 or (size[0] <= input_size[0] and size[1] <= input_size[1]):
            classes = possible_classes(scores_1Chw[0], reach)
    at_once = max(1, PIECE_CUDA // pixels) if scores_1Chw.is_cuda else 1
    return arg_max(scores_1Chw, scaled, classes, at_once)


def arg_max(
    scores_1Chw: Tensor, scaled: Callable[[Tensor], Tensor], classes: Sequence[int], at_once: int
) -> Tensor:
    """The class (H, W) with the highest scaled score; of equal ones the first, int64.

    Args:
        scores_1Chw: The scores, all finite.
        scaled: Brings maps (1, K, h, w) to (1, K, H, W).
        classes: Those that may win, ascending.
        at_once: How many of them to scale at a time.
    """
    # A narrow type: on a CPU, writing the winner is a good part of the work.
    dtype = torch.uint8 if classes[-1] < 256 else torch.int32
    ids = torch.tensor(list(classes), dtype=dtype, device=scores_1Chw.device)
    best_HW = label_HW = ids
    for begin in range(0, len(classes), at_once):
        maps_KHW = scaled(_channels(scores_1Chw, classes[begin : begin + at_once]))[0]
        if at_once == 1:
            value_HW, winner = maps_KHW[0], ids[begin]
        else:
            value_HW, position_HW = maps_KHW.max(0)
            winner = ids[begin:][position_HW]
        if begin == 0:
            # Copies: without scaling the maps are a part of the scores.
            best_HW, label_HW = value_HW.clone(), winner.expand_as(value_HW).clone()
            continue
        is_better_HW = value_HW > best_HW
        torch.maximum(best_HW, value_HW, out=best_HW)
        if at_once == 1:
            label_HW.masked_fill_(is_better_HW, winner)
        else:
            label_HW = torch.where(is_better_HW, winner, label_HW)
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
    at_once = max(1, PIECE_CUDA // math.prod(size)) if scores_Chw.is_cuda else POOLED_CPU
    parts = scores_Chw.split(at_once)
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


def _channels(scores_1Chw: Tensor, classes: Sequence[int]) -> Tensor:
    if isinstance(classes, range) or len(classes) == 1:
        return scores_1Chw[:, classes[0] : classes[-1] + 1]
    return scores_1Chw[:, classes]


def _resized(maps_NCHW: Tensor, size: tuple[int, ...], align_corners: bool) -> Tensor:
    """mmseg's bilinear scaling, left out where it changes nothing."""
    if _size(maps_NCHW) == size:
        return maps_NCHW
    resized: Tensor = resize(
        maps_NCHW, size, mode='bilinear', align_corners=align_corners, warning=False
    )
    return resized


def _without_padding_and_flip(maps_NCHW: Tensor, meta: Mapping[str, Any]) -> Tensor:
    """As `BaseSegmentor.postprocess_result` undoes them."""
    padding = meta.get('img_padding_size', meta.get('padding_size', (0, 0, 0, 0)))
    left, right, top, bottom = padding
    height, width = maps_NCHW.shape[-2:]
    maps_NCHW = maps_NCHW[:, :, top : height - bottom, left : width - right]
    if not meta.get('flip'):
        return maps_NCHW
    direction = meta.get('flip_direction')
    assert direction in ('horizontal', 'vertical'), direction
    return maps_NCHW.flip(dims=(3 if direction == 'horizontal' else 2,))


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
    """Whether scaling single classes to `sizes` gives what scaling all at once does.

    torch has two kernels. The one for channels last, and for all of the smallest maps, rounds
    by how many channels there are. With NaN and infinity even scaling to the same size counts.
    """
    return (
        min(map(sum, sizes)) > SMALL
        and scores_NChw.is_contiguous()
        and not scores_NChw.is_contiguous(memory_format=torch.channels_last)
        and bool(_bound(scores_NChw).isfinite())
    )


def _bound(x: Tensor) -> Tensor:
    """The largest absolute value, or NaN."""
    return torch.maximum(x.amax(), -x.amin())


def _size(maps_NCHW: Tensor) -> tuple[int, int]:
    height, width = maps_NCHW.shape[-2:]
    return height, width
