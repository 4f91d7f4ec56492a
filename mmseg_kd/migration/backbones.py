"""Backbones of NVIDIA's SegFormer, Microsoft's Swin and mmseg 0.x as mmseg 1.x writes them."""

from __future__ import annotations

import re
from typing import Any

from mmseg.registry import MODELS

from mmseg_kd.migration.layers import MIT, SWIN, LayerTable
from mmseg_kd.migration.registered import as_it_is
from mmseg_kd.migration.section import Section

# Embedding width and blocks of each stage, by the digit in the name.
_MIT_SIZES = {
    '0': (32, [2, 2, 2, 2]),
    '1': (64, [2, 2, 2, 2]),
    '2': (64, [3, 4, 6, 3]),
    '3': (64, [3, 4, 18, 3]),
    '4': (64, [3, 8, 27, 3]),
    '5': (64, [3, 6, 40, 3]),
}

# Microsoft's arguments that mmseg renamed, and those that only Microsoft's Swin has.
_SWIN_RENAMED = {
    'embed_dim': 'embed_dims',
    'in_chans': 'in_channels',
    'ape': 'use_abs_pos_embed',
    'use_checkpoint': 'with_cp',
}


def convert_backbone(section: Section) -> tuple[dict[str, Any], list[LayerTable]]:
    """Convert `backbone=dict(...)`, of which `initial_weights` have been taken.

    Returns:
        Its dict in mmseg 1.x, and what translates its layer names; nothing where they are the same.
    """
    kind = section.peek('type')
    if isinstance(kind, str) and re.fullmatch(r'mit_b[0-5]', kind):
        return _mit(section), [MIT]
    if kind == 'SwinTransformer' and _SWIN_RENAMED.keys() & section.values.keys():
        return _swin(section), [SWIN]
    return as_it_is(section, MODELS, 'backbone'), []


def initial_weights(section: Section) -> str | None:
    """The file or address that a backbone starts from, taken out of its section.

    It is `pretrained`, or `init_cfg` of the same meaning; another `init_cfg` stays where it is.
    """
    initial: str | None = section.take('pretrained')
    init_cfg = section.peek('init_cfg')
    if isinstance(init_cfg, dict) and init_cfg.get('type') == 'Pretrained':
        initial = section.take('init_cfg').get('checkpoint')
    return initial


def _mit(section: Section) -> dict[str, Any]:
    """Written out as mmseg's own configs do; NVIDIA's classes fix all of it."""
    kind = section.take('type')
    for key in list(section.rest()):
        reason = 'a word of other backbones' if key == 'style' else 'it had no effect'
        section.note(f'dropped: {reason}; {kind} takes no arguments', key)
    width, blocks = _MIT_SIZES[kind[-1]]
    return dict(
        type='MixVisionTransformer',
        in_channels=3,
        embed_dims=width,
        num_stages=4,
        num_layers=blocks,
        num_heads=[1, 2, 5, 8],
        patch_sizes=[7, 3, 3, 3],
        sr_ratios=[8, 4, 2, 1],
        out_indices=(0, 1, 2, 3),
        mlp_ratio=4,
        qkv_bias=True,
        drop_rate=0.0,
        attn_drop_rate=0.0,
        drop_path_rate=0.1,
    )


def _swin(section: Section) -> dict[str, Any]:
    """Microsoft's arguments under mmseg's names, with Microsoft's defaults where they differ."""
    section.drop('style', 'a word of other backbones')
    section.drop('norm_layer', 'mmseg has a layer normalisation here in any case')
    model = as_it_is(section, MODELS, 'backbone', renamed=_SWIN_RENAMED)
    model.setdefault('drop_path_rate', 0.2)
    model.setdefault('norm_cfg', dict(type='LN', requires_grad=True))
    patch_size = model.get('patch_size', 4)
    if patch_size != 4:
        # mmseg's own default for strides is made for patches of 4.
        model.setdefault('strides', (patch_size, 2, 2, 2))
    return model
