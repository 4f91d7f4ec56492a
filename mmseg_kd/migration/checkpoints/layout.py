"""What the converters of all layouts share: tables of names, and sizes read off shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmengine.config import ConfigDict
from torch import Tensor

from mmseg_kd.migration.layers import LayerTable


@dataclass(frozen=True)
class Renamed:
    """A checkpoint under mmseg's names.

    Attributes:
        layout: The layout that it was in.
        state_dict: Tensors by mmseg's names; what could not be renamed keeps its name.
        settings: Values, by their dotted place in the model dict, on which the outputs depend
            and which no tensor shows. For a backbone alone, without `backbone.` before them.
        notes: What the user should know.
    """

    layout: str
    state_dict: dict[str, Tensor]
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()


class NameTable:
    """Names of modules in one layout, and what mmseg calls them.

    Args:
        rows: Pairs (their name, mmseg's name), in which `{s}` is the number of a stage and
            `{i}` that of a block.
        first_stage: The number they give to the first stage, mmseg's 0.
    """

    def __init__(self, rows: Iterable[tuple[str, str]], first_stage: int = 0) -> None:
        self._modules = LayerTable(rows, first_stage=first_stage)

    def translate(self, key: str) -> str | None:
        """The name that mmseg has for the tensor `key`; None: the table does not know it."""
        module, _, tensor = key.rpartition('.')
        layer = self._modules.translate(module)
        return None if layer is None else f'{layer.name}.{tensor}'


def split_backbone(
    state: Mapping[str, Tensor], prefix: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors whose key begins with `prefix`, without it, and the others."""
    backbone = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return backbone, {k: v for k, v in state.items() if not k.startswith(prefix)}


def count(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many different names or numbers follow `prefix` in the keys."""
    return len({k[len(prefix) :].split('.')[0] for k in state if k.startswith(prefix)})


def encoder_decoder(
    backbone: Mapping[str, Any],
    decode_head: Mapping[str, Any],
    auxiliary_head: Mapping[str, Any] | None = None,
) -> ConfigDict:
    """A segmentor's model dict with the normalisation of images that both papers use."""
    model = dict(
        type='EncoderDecoder',
        data_preprocessor=dict(
            type='SegDataPreProcessor',
            mean=[123.675, 116.28, 103.53],
            std=[58.395, 57.12, 57.375],
            bgr_to_rgb=True,
            pad_val=0,
            seg_pad_val=255,
            size=(512, 512),
        ),
        backbone=dict(backbone),
        decode_head=dict(decode_head),
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
    )
    if auxiliary_head is not None:
        model['auxiliary_head'] = dict(auxiliary_head)
    return ConfigDict(model)


def head(kind: str, state: Mapping[str, Tensor], name: str, **changes: Any) -> dict[str, Any]:
    """The model dict of a decode head called `name`, its width and classes off its classifier.

    Raises:
        KeyError: It has no classifier.
    """
    classes, channels = state[f'{name}.conv_seg.weight'].shape[:2]
    return dict(
        type=kind,
        channels=channels,
        dropout_ratio=0.1,
        num_classes=classes,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        align_corners=False,
        **changes,
    )
