"""Microsoft's Swin checkpoints under mmseg's names.

Reference: Swin Transformer: Hierarchical Vision Transformer using Shifted Windows, 2021,
arXiv 2103.14030.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.config import ConfigDict
from torch import Tensor

from mmseg_kd.migration.checkpoints.layout import (
    NameTable,
    Renamed,
    count,
    encoder_decoder,
    head,
    split_backbone,
)

# Microsoft                       mmseg
_BACKBONE = """
patch_embed.proj                  patch_embed.projection
patch_embed.norm                  patch_embed.norm
layers.{s}.blocks.{i}.norm1       stages.{s}.blocks.{i}.norm1
layers.{s}.blocks.{i}.attn        stages.{s}.blocks.{i}.attn.w_msa
layers.{s}.blocks.{i}.attn.qkv    stages.{s}.blocks.{i}.attn.w_msa.qkv
layers.{s}.blocks.{i}.attn.proj   stages.{s}.blocks.{i}.attn.w_msa.proj
layers.{s}.blocks.{i}.norm2       stages.{s}.blocks.{i}.norm2
layers.{s}.blocks.{i}.mlp.fc1     stages.{s}.blocks.{i}.ffn.layers.0.0
layers.{s}.blocks.{i}.mlp.fc2     stages.{s}.blocks.{i}.ffn.layers.1
layers.{s}.downsample.norm        stages.{s}.downsample.norm
layers.{s}.downsample.reduction   stages.{s}.downsample.reduction
norm{s}                           norm{s}
"""
_TABLE = NameTable((line.split()[0], line.split()[1]) for line in _BACKBONE.strip().splitlines())
_MARKER = 'layers.0.blocks.0.attn.relative_position_bias_table'


def rename_swin(state: Mapping[str, Tensor]) -> Renamed | None:
    """Bring a Swin transformer, with the heads that it has or alone, under mmseg's names.

    The order in which four neighbours are merged differs: the layers after the merging are
    reordered. Heads keep their names. A backbone from ImageNet has one norm before its
    classifier; mmseg's has one for the output of each stage, which begin as the identity.

    Returns:
        None where the keys are of no Swin transformer.

    Raises:
        KeyError, ValueError, RuntimeError: A tensor is missing or has an impossible shape.
    """
    for prefix in ('backbone.', ''):
        if prefix + _MARKER in state:
            break
    else:
        return None
    theirs, rest = split_backbone(state, prefix)
    # Masks depend on the size of the image alone; mmseg makes them when it runs.
    dropped = [key for key in theirs if key.endswith('.attn_mask')]
    notes = []
    if not any(key.startswith(('decode_head.', 'auxiliary_head.')) for key in rest):
        prefix = ''
        classifier = [key for key in theirs if key.startswith(('norm.', 'head.'))]
        dropped += classifier
        if classifier:
            notes.append(f'Left out the classifier and its norm: {", ".join(classifier)}.')
    backbone = {_TABLE.translate(k) or k: v for k, v in theirs.items() if k not in dropped}
    for key, value in backbone.items():
        if '.downsample.' in key:
            backbone[key] = _reordered(value)
    if 'norm0.weight' not in backbone and not rest:
        _add_output_norms(backbone)
        notes.append(
            'The norms of the outputs of the stages are not in the file; they are the identity, '
            'as at the start of a training.'
        )
    tensors = {prefix + key: value for key, value in backbone.items()}
    return Renamed('microsoft-swin', tensors | rest, notes=notes)


def _reordered(tensor: Tensor) -> Tensor:
    """The last dimension, 4 neighbours x C channels, as C channels x 4 neighbours.

    Microsoft goes down the columns of the 2x2 neighbours, mmseg along the rows.
    """
    columns_rows_C: Tensor = tensor.unflatten(-1, (2, 2, -1))
    return columns_rows_C.transpose(-3, -2).flatten(-3, -2).transpose(-2, -1).flatten(-2)


def _add_output_norms(backbone: dict[str, Tensor]) -> None:
    for stage in range(count(backbone, 'stages.')):
        width = backbone[f'stages.{stage}.blocks.0.norm1.weight']
        backbone[f'norm{stage}.weight'] = torch.ones_like(width)
        backbone[f'norm{stage}.bias'] = torch.zeros_like(width)


def swin_model(state: Mapping[str, Tensor]) -> ConfigDict | None:
    """The model dict for a Swin transformer's tensors under mmseg's names, off their shapes.

    Returns:
        None where the keys are of no Swin transformer, or have another head than UPerNet's with
        its four pooling scales.

    Raises:
        KeyError, ValueError: A tensor is missing or has an impossible shape.
    """
    mark = 'stages.0.blocks.0.attn.w_msa.qkv.weight'
    if mark in state:
        return ConfigDict(_swin(state))
    backbone, rest = split_backbone(state, 'backbone.')
    # What scales are pooled shows in no shape; four are the paper's 1, 2, 3, 6.
    if mark not in backbone or count(rest, 'decode_head.psp_modules.') != 4:
        return None
    if 'decode_head.fpn_bottleneck.conv.weight' not in rest:
        return None
    swin = _swin(backbone)
    laterals = range(count(rest, 'decode_head.lateral_convs.'))
    in_channels = [rest[f'decode_head.lateral_convs.{i}.conv.weight'].shape[1] for i in laterals]
    in_channels.append(rest['decode_head.psp_modules.0.1.conv.weight'].shape[1])
    decode_head = head(
        'UPerHead',
        rest,
        'decode_head',
        in_channels=in_channels,
        in_index=list(range(len(in_channels))),
        pool_scales=(1, 2, 3, 6),
    )
    auxiliary_head = None
    if 'auxiliary_head.convs.0.conv.weight' in rest:
        auxiliary_head = _auxiliary_head(rest, in_channels)
    return encoder_decoder(swin, decode_head, auxiliary_head)


def _auxiliary_head(state: Mapping[str, Tensor], widths: list[int]) -> dict[str, Any]:
    first = state['auxiliary_head.convs.0.conv.weight']
    return head(
        'FCNHead',
        state,
        'auxiliary_head',
        in_channels=first.shape[1],
        in_index=widths.index(first.shape[1]),
        num_convs=count(state, 'auxiliary_head.convs.'),
        kernel_size=first.shape[2],
        concat_input='auxiliary_head.conv_cat.conv.weight' in state,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=0.4),
    )


def _swin(state: Mapping[str, Tensor]) -> dict[str, Any]:
    stages = range(count(state, 'stages.'))
    patch = state['patch_embed.projection.weight']
    block = 'stages.{}.blocks.0.attn.w_msa.relative_position_bias_table'
    biases = [state[block.format(s)] for s in stages]
    patch_size = patch.shape[2]
    return dict(
        type='SwinTransformer',
        in_channels=patch.shape[1],
        embed_dims=patch.shape[0],
        patch_size=patch_size,
        # The table has a row for every offset, from 1 - window to window - 1 both ways.
        window_size=(math.isqrt(biases[0].shape[0]) + 1) // 2,
        mlp_ratio=state['stages.0.blocks.0.ffn.layers.0.0.weight'].shape[0] // patch.shape[0],
        depths=[count(state, f'stages.{s}.blocks.') for s in stages],
        num_heads=[bias.shape[1] for bias in biases],
        strides=(patch_size, *(2 for _ in stages[1:])),
        out_indices=tuple(stages),
        qkv_bias='stages.0.blocks.0.attn.w_msa.qkv.bias' in state,
        patch_norm='patch_embed.norm.weight' in state,
        drop_path_rate=0.3,
    )
