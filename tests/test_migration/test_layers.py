"""What layers of old networks are called in mmseg's, and that they put out the same."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import ConfigDict
from test_migration.test_checkpoints.original_networks import SegFormer, SwinUPerNet, randomise
from torch import Tensor, nn

from mmseg_kd.migration.checkpoints.convert import convert_checkpoint
from mmseg_kd.migration.layers import MIT, SEGFORMER_HEAD, SWIN, LayerTable, translate
from mmseg_kd.networks.build import build_network
from mmseg_kd.networks.recorder import Recorder

SEGFORMER = (MIT, SEGFORMER_HEAD)


def tokens(map_BChw: Tensor) -> Tensor:
    return map_BChw.flatten(2).transpose(1, 2)


def outputs_of(network: nn.Module, names: Sequence[str], images: Tensor) -> dict[str, Tensor]:
    """What layers put out, as tokens (B, N, C)."""
    found: dict[str, Tensor] = {}
    for name in names:

        def keep(module: nn.Module, inputs: Any, output: Tensor, name: str = name) -> None:
            is_map = isinstance(module, nn.Conv2d | nn.BatchNorm2d)
            found[name] = tokens(output) if is_map else output.flatten(1, -2)

        network.get_submodule(name).register_forward_hook(keep)
    with torch.no_grad():
        network(images)
    return found


def compare(original: nn.Module, names: Sequence[str], tables: Any, tmp_path: Path) -> None:
    """See that layers put out what those with the translated names do."""
    torch.save(original.state_dict(), tmp_path / 'old.pth')
    conversion = convert_checkpoint(str(tmp_path / 'old.pth'))
    network = build_network(conversion.model, 'model').double().eval()
    network.load_state_dict(conversion.state_dict)
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    expected = outputs_of(original, names, images)
    new = [str(translate(name, tables).name) for name in names]
    with torch.no_grad(), Recorder(network, new, modified_in_place=new) as taps:
        network(images, mode='tensor')
        actual = taps.outputs
    for name, renamed in zip(names, new, strict=True):
        ours, theirs = actual[renamed], expected[name]
        ours = tokens(ours) if ours.ndim == 4 else ours
        assert theirs.std() > 1e-4, name
        torch.testing.assert_close(
            ours, theirs, rtol=1e-8, atol=1e-8, msg=lambda text, name=name: f'{name}: {text}'
        )


BLOCK = 'backbone.block2.1'


def test_segformer_layers_put_out_the_same(tmp_path: Path) -> None:
    names = [
        'backbone.patch_embed3.norm',
        'backbone.norm1',
        'backbone.norm4',
        BLOCK,
        *(f'{BLOCK}.{part}' for part in ('norm1', 'norm2', 'attn', 'attn.q', 'attn.norm')),
        *(f'{BLOCK}.{part}' for part in ('mlp', 'mlp.fc1', 'mlp.dwconv.dwconv', 'mlp.fc2')),
        'backbone.block4.0.attn.proj',
        'decode_head.linear_fuse.conv',
        'decode_head.linear_fuse.bn',
        'decode_head.linear_pred',
    ]
    original = randomise(SegFormer())
    compare(original, names, SEGFORMER, tmp_path)


def test_keys_and_values_put_out_the_same(tmp_path: Path) -> None:
    """SegDistill's K and V were halves of what `kv` puts out, by heads."""
    original = randomise(SegFormer())
    torch.save(original.state_dict(), tmp_path / 'old.pth')
    conversion = convert_checkpoint(str(tmp_path / 'old.pth'))
    network = build_network(conversion.model, 'model').double().eval()
    network.load_state_dict(conversion.state_dict)
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    both = outputs_of(original, [f'{BLOCK}.attn.kv'], images)[f'{BLOCK}.attn.kv']
    query = outputs_of(original, [f'{BLOCK}.attn.q'], images)[f'{BLOCK}.attn.q']
    names = [str(translate(f'{BLOCK}.attn.{part}', SEGFORMER).name) for part in 'QKV']
    with torch.no_grad(), Recorder(network, names) as taps:
        network(images, mode='tensor')
        found = [taps[name].flatten(0, 1) for name in names]
    for ours, theirs in zip(found, (query, *both.chunk(2, -1)), strict=True):
        torch.testing.assert_close(ours, theirs.flatten(0, -2), rtol=1e-8, atol=1e-8)


def test_swin_layers_put_out_the_same(tmp_path: Path) -> None:
    block = 'backbone.layers.0.blocks.1'
    names = [
        'backbone.patch_embed.proj',
        'backbone.patch_embed.norm',
        'backbone.norm0',
        'backbone.norm3',
        block,
        *(f'{block}.{part}' for part in ('norm1', 'norm2', 'mlp.fc1', 'mlp.fc2')),
        'backbone.layers.2.blocks.2',
        'backbone.layers.1.downsample.reduction',
        'decode_head.conv_seg',
    ]
    compare(randomise(SwinUPerNet()), names, [SWIN], tmp_path)


MIT_BACKBONE = dict(
    type='MixVisionTransformer',
    embed_dims=8,
    num_layers=[1, 1, 1, 1],
    num_heads=[1, 2, 5, 8],
)
SWIN_BACKBONE = dict(
    type='SwinTransformer', embed_dims=12, depths=(2, 1, 1, 1), num_heads=(1, 2, 3, 6)
)


def model(backbone: dict[str, Any], kind: str, widths: Sequence[int]) -> ConfigDict:
    head = dict(
        type=kind,
        in_channels=list(widths),
        in_index=[0, 1, 2, 3],
        channels=8,
        num_classes=5,
        norm_cfg=dict(type='BN'),
    )
    return ConfigDict(type='EncoderDecoder', backbone=backbone, decode_head=head)


@pytest.mark.parametrize(
    ('tables', 'network'),
    [
        (SEGFORMER, model(MIT_BACKBONE, 'SegformerHead', (8, 16, 40, 64))),
        ((SWIN,), model(SWIN_BACKBONE, 'UPerHead', (12, 24, 48, 96))),
    ],
    ids=['segformer', 'swin'],
)
def test_all_new_names_can_be_tapped(tables: Sequence[LayerTable], network: ConfigDict) -> None:
    new = {
        str(translate(old.format(s=1, i=0), tables).name)
        for table in tables
        for old, layer in table.rows
        if layer.name is not None
    }
    built = build_network(network, 'model').eval()
    with torch.no_grad(), Recorder(built, sorted(new)) as taps:
        built(torch.zeros(1, 3, 64, 64), mode='tensor')
        assert taps.outputs.keys() == new
    assert len(new) > 10


@pytest.mark.parametrize(
    ('old', 'new'),
    [
        ('decode_head.linear_pred', 'decode_head.conv_seg'),
        ('decode_head.linear_c1', 'decode_head.convs.0'),
        ('decode_head.linear_c4.proj', 'decode_head.convs.3.conv'),
        ('decode_head.linear_fuse', 'decode_head.fusion_conv'),
        ('backbone.patch_embed1', 'backbone.layers.0.0.norm'),
        ('backbone.patch_embed2.proj', 'backbone.layers.1.0.projection'),
        ('backbone.patch_embed3.norm', 'backbone.layers.2.0.norm'),
        ('backbone.block4.12', 'backbone.layers.3.1.12'),
        ('backbone.block1.0.attn', 'backbone.layers.0.1.0.attn.proj_drop'),
        ('backbone.block1.0.attn.q', 'backbone.layers.0.1.0.attn.attn.query'),
        ('backbone.block1.0.attn.attn_drop', 'backbone.layers.0.1.0.attn.attn.weights'),
        ('backbone.block1.0.attn.Q', 'backbone.layers.0.1.0.attn.attn.query'),
        ('backbone.block4.2.attn.K', 'backbone.layers.3.1.2.attn.attn.key'),
        ('backbone.block2.3.attn.V', 'backbone.layers.1.1.3.attn.attn.value'),
        ('backbone.block1.0.attn.ATTN', 'backbone.layers.0.1.0.attn.attn.weights'),
        ('backbone.block1.0.FEA', 'backbone.layers.0.1.0'),
        ('backbone.block1.0.attn.FEA', 'backbone.layers.0.1.0.attn.proj_drop'),
        ('backbone.block1.0.mlp.FEA', 'backbone.layers.0.1.0.ffn.layers'),
        ('backbone.block1.0.mlp', 'backbone.layers.0.1.0.ffn.layers'),
        ('backbone.block1.0.mlp.fc1', 'backbone.layers.0.1.0.ffn.layers.0'),
        ('backbone.block1.0.mlp.dwconv', 'backbone.layers.0.1.0.ffn.layers.1'),
        ('backbone.block1.0.mlp.fc2', 'backbone.layers.0.1.0.ffn.layers.4'),
        ('backbone.norm2', 'backbone.layers.1.2'),
        ('auxiliary_head.conv_seg', 'auxiliary_head.conv_seg'),
    ],
)
def test_segformer_names(old: str, new: str) -> None:
    assert translate(old, SEGFORMER).name == new


@pytest.mark.parametrize(
    ('old', 'new'),
    [
        ('backbone.layers.2.blocks.5', 'backbone.stages.2.blocks.5'),
        ('backbone.layers.2.blocks.5.attn', 'backbone.stages.2.blocks.5.attn.w_msa'),
        ('backbone.layers.0.blocks.1.attn.qkv', 'backbone.stages.0.blocks.1.attn.w_msa.qkv'),
        ('backbone.layers.0.blocks.1.mlp.fc1', 'backbone.stages.0.blocks.1.ffn.layers.0.0'),
        ('backbone.layers.0.blocks.1.mlp.fc2', 'backbone.stages.0.blocks.1.ffn.layers.1'),
        ('backbone.patch_embed.proj', 'backbone.patch_embed.projection'),
        ('backbone.norm3', 'backbone.norm3'),
        ('decode_head.conv_seg', 'decode_head.conv_seg'),
    ],
)
def test_swin_names(old: str, new: str) -> None:
    assert translate(old, [SWIN]).name == new


@pytest.mark.parametrize(
    ('tables', 'old', 'why'),
    [
        (SEGFORMER, 'backbone.block1.0.attn.kv', r'attn\.attn\.key or \.value'),
        (SEGFORMER, 'decode_head.conv_seg', 'never ran'),
        (SEGFORMER, 'backbone.block1', 'no layer of mmseg'),
        (SEGFORMER, 'backbone', 'no layer of mmseg'),
        ([SWIN], 'backbone.layers.1', 'tuple'),
        ([SWIN], 'backbone.layers.1.downsample.norm', 'another order'),
        ([SWIN], 'backbone.layers.1.blocks', 'no layer of mmseg'),
    ],
)
def test_layers_without_an_equal(tables: Any, old: str, why: str) -> None:
    layer = translate(old, tables)
    assert layer.name is None
    assert re.search(why, str(layer.remark))


@pytest.mark.parametrize(
    ('old', 'remark'),
    [
        ('backbone.block1.0.attn.attn_drop', 'mean over the heads'),
        ('backbone.block1.0.attn.ATTN', 'the scores before it'),
        ('backbone.block1.0.attn.sr', 'scaled'),
        ('backbone.patch_embed1.proj', 'scaled'),
        ('decode_head.linear_c2', 'ReLU'),
        ('decode_head.linear_c2.proj', 'without the bias'),
    ],
)
def test_remarks(old: str, remark: str) -> None:
    assert remark in str(translate(old, SEGFORMER).remark)
