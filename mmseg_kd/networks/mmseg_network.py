"""The segmentors of mmseg."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from mmseg_kd.networks.network import Preprocessing, as_size, channels_of, sizes_of

# What mmseg's base class of segmentors asks of them; looked at by name, so that mmseg need not be
# imported to tell that a module is none of them.
_INTERFACE = ('data_preprocessor', 'extract_feat', 'encode_decode')


class MMSegNetwork:
    """A segmentor of mmseg, run in its tensor mode.

    In this mode mmseg leaves auxiliary heads out: they run where a layer of theirs is asked for.

    Args:
        segmentor: The segmentor.
    """

    def __init__(self, segmentor: nn.Module) -> None:
        self._segmentor: Any = segmentor

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Whether a module has the interface of mmseg's segmentors."""
        return all(hasattr(module, name) for name in _INTERFACE)

    @property
    def num_classes(self) -> int | None:
        classes: int | None = getattr(self._segmentor, 'num_classes', None)
        return classes

    @property
    def preprocessing(self) -> Preprocessing:
        preprocessor = self._segmentor.data_preprocessor
        swaps = bool(getattr(preprocessor, '_channel_conversion', False))
        pad_value = float(getattr(preprocessor, 'pad_val', 0))
        if not getattr(preprocessor, '_enable_normalize', False):
            return Preprocessing(swaps_channels=swaps, pad_value=pad_value)
        mean, std = preprocessor.mean.flatten().tolist(), preprocessor.std.flatten().tolist()
        return Preprocessing(mean, std, swaps, pad_value)

    @property
    def channels(self) -> int:
        return channels_of(self._segmentor, self.preprocessing)

    @property
    def input_sizes(self) -> list[tuple[int, int]]:
        test_cfg = getattr(self._segmentor, 'test_cfg', None) or {}
        own = (getattr(self._segmentor.data_preprocessor, 'size', None), test_cfg.get('crop_size'))
        sizes = [*sizes_of(self._segmentor), *map(as_size, own)]
        return [size for size in sizes if size is not None]

    def run(self, images_NCHW: Tensor) -> Any:
        if self._has_tensor_mode():
            return self._segmentor(images_NCHW, mode='tensor')
        # What prediction runs, which asks for the size of its images.
        height, width = images_NCHW.shape[-2:]
        size = dict(img_shape=(height, width), ori_shape=(height, width), pad_shape=(height, width))
        return self._segmentor.encode_decode(images_NCHW, [size] * len(images_NCHW))

    def _has_tensor_mode(self) -> bool:
        """mmseg's tensor mode hands each head of a cascade the scores of the one before it.

        PointRend's last head is made for points, and has no use for them.
        """
        heads = getattr(self._segmentor, 'decode_head', None)
        later = heads[1:] if isinstance(heads, nn.ModuleList) else ()
        return all('prev_output' in inspect.signature(head.forward).parameters for head in later)

    @contextmanager
    def running(self, layers: Collection[str]) -> Iterator[None]:
        heads = getattr(self._segmentor, 'auxiliary_head', None)
        if heads is None or not any(one.split('.')[0] == 'auxiliary_head' for one in layers):
            yield
            return

        def run_heads(module: nn.Module, inputs: Any, features: Any) -> None:
            # As mmseg does, by their `forward`: hooks on a head itself do not fire.
            for head in heads if isinstance(heads, nn.ModuleList) else [heads]:
                head.forward(features)

        source = self._segmentor.get_submodule('neck' if self._segmentor.with_neck else 'backbone')
        with source.register_forward_hook(run_heads):
            yield

    def scored_classes(self, layer: str) -> int | None:
        if not is_classifier(layer):
            return None
        module = self._segmentor.get_submodule(layer)
        # A convolution says it itself: not all heads, nor all of a head's branches, score the same.
        if isinstance(module, nn.Conv2d):
            return module.out_channels
        while layer and not hasattr(module, 'num_classes'):
            layer = layer.rpartition('.')[0]
            module = self._segmentor.get_submodule(layer)
        classes: int | None = getattr(module, 'out_channels', None) or self.num_classes
        return classes


# How mmseg's heads call the layers that give scores: `conv_seg`, DANet's `cam_conv_seg`, DDRNet's
# `aux_cls_seg`, PointRend's `fc_seg`, Segmenter's `mask_norm`.
_SCORES = ('conv_seg', 'cls_seg', 'fc_seg', 'mask_norm')


def is_classifier(layer: str) -> bool:
    """Whether a layer puts out class scores: a head as a whole, or one that is named for it."""
    path = layer.split('.')
    return path[0] in ('decode_head', 'auxiliary_head') and (
        path[-1].endswith(_SCORES) or all(part.isdigit() for part in path[1:])
    )
