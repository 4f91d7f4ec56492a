"""The segmentors of mmseg."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from mmseg_kd.networks.network import Preprocessing

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

    def run(self, images_NCHW: Tensor) -> Any:
        return self._segmentor(images_NCHW, mode='tensor')

    @contextmanager
    def running(self, layers: Collection[str]) -> Iterator[None]:
        heads = getattr(self._segmentor, 'auxiliary_head', None)
        if heads is None or not any(map(_is_auxiliary, layers)):
            yield
            return

        def run_heads(module: nn.Module, inputs: Any, features: Any) -> None:
            # As mmseg does, by their `forward`: hooks on a head itself do not fire.
            for head in heads if isinstance(heads, nn.ModuleList) else [heads]:
                head.forward(features)

        source = self._segmentor.get_submodule('neck' if self._segmentor.with_neck else 'backbone')
        handle = source.register_forward_hook(run_heads)
        try:
            yield
        finally:
            handle.remove()

    def is_scores(self, layer: str) -> bool:
        return is_classifier(layer)


def _is_auxiliary(layer: str) -> bool:
    """Whether a layer is in an auxiliary head."""
    return layer.split('.')[0] == 'auxiliary_head'


def is_classifier(layer: str) -> bool:
    """Whether a layer puts out class scores: a head as a whole, or its `conv_seg`."""
    path = layer.split('.')
    return path[0] in ('decode_head', 'auxiliary_head') and (
        path[-1] == 'conv_seg' or all(part.isdigit() for part in path[1:])
    )
