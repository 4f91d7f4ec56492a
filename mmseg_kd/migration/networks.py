"""Teacher's and student's network: `cfg_s` and `cfg_t` as mmseg 1.x writes a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmseg.registry import MODELS

from mmseg_kd.migration.backbones import convert_backbone, initial_weights
from mmseg_kd.migration.heads import NVIDIA_HEAD, convert_head
from mmseg_kd.migration.layers import SEGFORMER_HEAD, LayerTable
from mmseg_kd.migration.registered import as_it_is
from mmseg_kd.migration.section import Section


@dataclass(frozen=True)
class Network:
    """A segmentor in today's words.

    Attributes:
        model: mmseg's model dict, without initial weights and data preprocessor.
        initial_weights: The file or address that its backbone starts from.
        tables: What its layers are called today.
    """

    model: dict[str, Any]
    initial_weights: str | None
    tables: Sequence[LayerTable]

    @property
    def renamed(self) -> bool:
        """Whether old checkpoints of it have names that mmseg does not know."""
        return bool(self.tables)

    @property
    def nvidia_head(self) -> bool:
        """Whether it had NVIDIA's head."""
        return SEGFORMER_HEAD in self.tables


def convert_network(section: Section) -> Network:
    """Convert `cfg_s=dict(...)` or `cfg_t=dict(...)`."""
    initial = section.take('pretrained')
    parts: dict[str, Any] = {}
    tables: list[LayerTable] = []
    backbone = section.section('backbone')
    if backbone is None:
        section.problem('expected a backbone, got none')
    else:
        own = initial_weights(backbone)
        initial = initial or own
        parts['backbone'], tables = convert_backbone(backbone)
    neck = section.section('neck')
    if neck is not None:
        parts['neck'] = as_it_is(neck, MODELS, 'neck')
    for key in ('decode_head', 'auxiliary_head'):
        heads = list(section.sections(key))
        if key == 'decode_head' and any(one.peek('type') == NVIDIA_HEAD for one in heads):
            tables.append(SEGFORMER_HEAD)
        models = [convert_head(one) for one in heads]
        if models:
            parts[key] = models if isinstance(section.peek(key), list | tuple) else models[0]
    # What is left, such as train_cfg and test_cfg, is called the same.
    rest = as_it_is(section, MODELS, 'segmentor')
    settings = {key: rest.pop(key, None) or {} for key in ('train_cfg', 'test_cfg')}
    return Network({**rest, **parts, **settings}, initial, tables)
