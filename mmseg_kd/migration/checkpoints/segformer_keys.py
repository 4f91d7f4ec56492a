"""SegFormer's checkpoints of NVIDIA and of Hugging Face under mmseg's names.

Reference: SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers,
2021, arXiv 2105.15203.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
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

# mmseg after `layers.{s}.`   NVIDIA                         Hugging Face
_BACKBONE = """
0.projection                patch_embed{s}.proj             patch_embeddings.{s}.proj
0.norm                      patch_embed{s}.norm             patch_embeddings.{s}.layer_norm
1.{i}.norm1                 block{s}.{i}.norm1              block.{s}.{i}.layer_norm_1
1.{i}.attn.attn.in_proj.q   block{s}.{i}.attn.q             block.{s}.{i}.attention.self.query
1.{i}.attn.attn.in_proj.kv  block{s}.{i}.attn.kv            -
1.{i}.attn.attn.in_proj.k   -                               block.{s}.{i}.attention.self.key
1.{i}.attn.attn.in_proj.v   -                               block.{s}.{i}.attention.self.value
1.{i}.attn.attn.out_proj    block{s}.{i}.attn.proj          block.{s}.{i}.attention.output.dense
1.{i}.attn.sr               block{s}.{i}.attn.sr            block.{s}.{i}.attention.self.sr
1.{i}.attn.norm             block{s}.{i}.attn.norm          block.{s}.{i}.attention.self.layer_norm
1.{i}.norm2                 block{s}.{i}.norm2              block.{s}.{i}.layer_norm_2
1.{i}.ffn.layers.0          block{s}.{i}.mlp.fc1            block.{s}.{i}.mlp.dense1
1.{i}.ffn.layers.1          block{s}.{i}.mlp.dwconv.dwconv  block.{s}.{i}.mlp.dwconv.dwconv
1.{i}.ffn.layers.4          block{s}.{i}.mlp.fc2            block.{s}.{i}.mlp.dense2
2                           norm{s}                         layer_norm.{s}
"""
# The networks of transformers 5 have names of their own; its files have those above.
# mmseg after `layers.{s}.`       Hugging Face after `stages.{s}.`
_BACKBONE_IN_MEMORY = """
0.projection                      patch_embeddings.proj
0.norm                            patch_embeddings.layer_norm
1.{i}.norm1                       blocks.{i}.layernorm_before
1.{i}.attn.attn.in_proj.q         blocks.{i}.attention.q_proj
1.{i}.attn.attn.in_proj.k         blocks.{i}.attention.k_proj
1.{i}.attn.attn.in_proj.v         blocks.{i}.attention.v_proj
1.{i}.attn.attn.out_proj          blocks.{i}.attention.o_proj
1.{i}.attn.sr                     blocks.{i}.attention.sequence_reduction.sequence_reduction
1.{i}.attn.norm                   blocks.{i}.attention.sequence_reduction.layer_norm
1.{i}.norm2                       blocks.{i}.layernorm_after
1.{i}.ffn.layers.0                blocks.{i}.mlp.fc1
1.{i}.ffn.layers.1                blocks.{i}.mlp.dwconv.dwconv
1.{i}.ffn.layers.4                blocks.{i}.mlp.fc2
2                                 layer_norm
"""
# All after `decode_head.`
# mmseg            NVIDIA            Hugging Face       its networks in memory
_HEAD = """
convs.{s}.conv     linear_c{s}.proj  linear_c.{s}.proj  linear_projections.{s}.proj
fusion_conv.conv   linear_fuse.conv  linear_fuse        linear_fuse
fusion_conv.bn     linear_fuse.bn    batch_norm         batch_norm
conv_seg           linear_pred       classifier         classifier
"""

# The eps of layer norms: torch's default, and what NVIDIA's code gives to blocks and stages.
_TORCH_EPS = 1e-5
_NVIDIA_EPS = 1e-6


def _table(column: int, text: str, ours: str, theirs: str = '', first_stage: int = 0) -> NameTable:
    rows = [line.split() for line in text.strip().splitlines()]
    return NameTable(
        [(theirs + row[column], ours + row[0]) for row in rows if row[column] != '-'],
        first_stage,
    )


@dataclass(frozen=True)
class _Source:
    """A layout.

    Attributes:
        layout: Its name.
        prefixes: What may stand before a backbone's keys.
        marker: A key, after the prefix, that only this layout has.
        eps: That of the layer norms of blocks and stages.
        backbone, head: Their names.
    """

    layout: str
    prefixes: tuple[str, ...]
    marker: str
    eps: float
    backbone: NameTable
    head: NameTable


_SOURCES = [
    _Source(
        'nvidia-segformer',
        ('backbone.', ''),
        'block1.0.mlp.dwconv.dwconv.weight',
        _NVIDIA_EPS,
        _table(1, _BACKBONE, 'layers.{s}.', first_stage=1),
        _table(1, _HEAD, 'decode_head.', 'decode_head.', first_stage=1),
    ),
    _Source(
        'huggingface-segformer',
        ('segformer.encoder.', 'encoder.'),
        'block.0.0.mlp.dwconv.dwconv.weight',
        _TORCH_EPS,
        _table(2, _BACKBONE, 'layers.{s}.'),
        _table(2, _HEAD, 'decode_head.', 'decode_head.'),
    ),
    _Source(
        'huggingface-segformer',
        ('segformer.', ''),
        'stages.0.blocks.0.mlp.dwconv.dwconv.weight',
        _TORCH_EPS,
        _table(1, _BACKBONE_IN_MEMORY, 'layers.{s}.', 'stages.{s}.'),
        _table(3, _HEAD, 'decode_head.', 'decode_head.'),
    ),
]

_EVAL_MODE = (
    'The outputs equal those of the original in eval mode, as for a teacher. The original head '
    'has no batch norm before the fusion; here each is the identity plus the bias, until '
    'training changes its statistics.'
)
_EPS_FOLDED = (
    'The original has eps=1e-5 in the norms after patch embeddings and spatial reductions and '
    '1e-6 in the others, mmseg one for all. The convolutions before the former are scaled by '
    'sqrt(0.1), which leaves the outputs as they were.'
)
_EPS_KEPT = (
    'The original has eps=1e-5 in the norms after patch embeddings and spatial reductions, '
    "mmseg's default is 1e-6 in all. The tensors are left as they are, as in mmseg's own "
    'ImageNet weights; the features differ a little.'
)


def rename_segformer(state: Mapping[str, Tensor]) -> Renamed | None:
    """Bring a SegFormer, or its backbone alone, under mmseg's names.

    The segmentor's outputs in eval mode are those of the original code: queries, keys and
    values are stacked, linear layers become 1x1 convolutions, the inputs of the fusion turn
    from coarse-to-fine to fine-to-coarse, the biases before it go into batch norms.

    Returns:
        None where the keys are of no SegFormer.

    Raises:
        KeyError, ValueError, RuntimeError: A tensor is missing or has an impossible shape.
    """
    for source in _SOURCES:
        for prefix in source.prefixes:
            if prefix + source.marker in state:
                return _rename(state, source, prefix)
    return None


def _rename(state: Mapping[str, Tensor], source: _Source, prefix: str) -> Renamed:
    theirs, rest = split_backbone(state, prefix)
    backbone = _rename_backbone(theirs, source)
    norm_cfg = dict(type='LN', eps=source.eps)
    nvidia = source.eps == _NVIDIA_EPS
    if not any(key.startswith('decode_head.') for key in rest):
        tensors = backbone | rest
        dropped = [k for k in tensors if k.startswith(('head.', 'classifier.'))]
        notes = [f'Left out the classifier: {", ".join(dropped)}.'] if dropped else []
        kept = {k: v for k, v in tensors.items() if k not in dropped}
        notes += [_EPS_KEPT] if nvidia else []
        return Renamed(source.layout, kept, {'norm_cfg': norm_cfg}, notes)
    notes = []
    if nvidia:
        _fold_eps(backbone)
        notes.append(_EPS_FOLDED)
    tensors = {f'backbone.{key}': value for key, value in backbone.items()}
    settings: dict[str, Any] = {'backbone.norm_cfg': norm_cfg}
    if any(source.head.translate(k) == 'decode_head.fusion_conv.conv.weight' for k in rest):
        unused = [k for k in rest if k.startswith('decode_head.conv_seg.')]
        if unused:
            notes.append(f'Left out what the original does not use: {", ".join(unused)}.')
        tensors |= _rename_head({k: v for k, v in rest.items() if k not in unused}, source)
        settings |= {'decode_head.act_cfg': None, 'decode_head.norm_cfg.eps': _TORCH_EPS}
        notes.append(_EVAL_MODE)
    else:
        tensors |= rest
    return Renamed(source.layout, tensors, settings, notes)


def _rename_backbone(theirs: Mapping[str, Tensor], source: _Source) -> dict[str, Tensor]:
    ours = {source.backbone.translate(key) or key: value for key, value in theirs.items()}
    for key in [k for k in ours if '.in_proj.q.' in k]:
        module, tensor = key.split('.in_proj.q.')
        together = f'{module}.in_proj.kv.{tensor}' in ours
        parts = ['q', 'kv'] if together else ['q', 'k', 'v']
        ours[f'{module}.in_proj_{tensor}'] = torch.cat(
            [ours.pop(f'{module}.in_proj.{part}.{tensor}') for part in parts]
        )
    for key, value in ours.items():
        if key.endswith(('.ffn.layers.0.weight', '.ffn.layers.4.weight')):
            ours[key] = value[..., None, None]
    return ours


def _fold_eps(backbone: dict[str, Tensor]) -> None:
    """Scale what is fed to a norm of another eps: LN(x, eps) = LN(c x, c^2 eps)."""
    scale = math.sqrt(_NVIDIA_EPS / _TORCH_EPS)
    for key, value in backbone.items():
        if '.0.projection.' in key or '.attn.sr.' in key:
            backbone[key] = value * scale


def _rename_head(theirs: Mapping[str, Tensor], source: _Source) -> dict[str, Tensor]:
    ours = {source.head.translate(key) or key: value for key, value in theirs.items()}
    levels = count(ours, 'decode_head.convs.')
    for level in range(levels):
        conv, norm = (f'decode_head.convs.{level}.{part}' for part in ('conv', 'bn'))
        ours[f'{conv}.weight'] = ours[f'{conv}.weight'][..., None, None]
        bias = ours.pop(f'{conv}.bias')
        ours[f'{norm}.weight'] = torch.ones_like(bias)
        ours[f'{norm}.bias'] = bias
        ours[f'{norm}.running_mean'] = torch.zeros_like(bias)
        ours[f'{norm}.running_var'] = torch.full_like(bias, 1 - _TORCH_EPS)
    fusion = 'decode_head.fusion_conv.conv.weight'
    ours[fusion] = ours[fusion].unflatten(1, (levels, -1)).flip(1).flatten(1, 2)
    return ours


def segformer_model(state: Mapping[str, Tensor]) -> ConfigDict | None:
    """The model dict for a SegFormer's tensors under mmseg's names, read off their shapes.

    Heads and strides show in no shape; they are taken to be as in the paper, one head for
    every `embed_dims` channels and a stride of half the patch.

    Returns:
        None where the keys are of no mix transformer, or have another head than SegFormer's.

    Raises:
        KeyError, ValueError: A tensor is missing or has an impossible shape.
    """
    mark = 'layers.0.1.0.ffn.layers.1.weight'
    if mark in state:
        return ConfigDict(_mit(state))
    backbone, rest = split_backbone(state, 'backbone.')
    if mark not in backbone or 'decode_head.fusion_conv.conv.weight' not in rest:
        return None
    levels = range(count(rest, 'decode_head.convs.'))
    in_channels = [rest[f'decode_head.convs.{i}.conv.weight'].shape[1] for i in levels]
    decode_head = head(
        'SegformerHead', rest, 'decode_head', in_channels=in_channels, in_index=list(levels)
    )
    return encoder_decoder(_mit(backbone), decode_head)


def _mit(state: Mapping[str, Tensor]) -> dict[str, Any]:
    stages = range(count(state, 'layers.'))
    patches = [state[f'layers.{s}.0.projection.weight'] for s in stages]
    dims = [patch.shape[0] for patch in patches]
    reductions = [state.get(f'layers.{s}.1.0.attn.sr.weight') for s in stages]
    return dict(
        type='MixVisionTransformer',
        in_channels=patches[0].shape[1],
        embed_dims=dims[0],
        num_stages=len(stages),
        num_layers=[count(state, f'layers.{s}.1.') for s in stages],
        num_heads=[dim // dims[0] for dim in dims],
        patch_sizes=[patch.shape[2] for patch in patches],
        strides=[(patch.shape[2] + 1) // 2 for patch in patches],
        sr_ratios=[1 if sr is None else sr.shape[2] for sr in reductions],
        out_indices=tuple(stages),
        mlp_ratio=state['layers.0.1.0.ffn.layers.0.weight'].shape[0] // dims[0],
        qkv_bias='layers.0.1.0.attn.attn.in_proj_bias' in state,
        drop_path_rate=0.1,
    )
