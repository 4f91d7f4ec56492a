from __future__ import annotations

import json
import re
import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import RunsCode, mit, resnet
from mmengine.config import Config, ConfigDict
from mmseg.registry import MODELS
from original_networks import (
    CLASSES,
    DEPTHS,
    HEADS,
    IN_MEMORY,
    REDUCTIONS,
    WIDTHS,
    MixTransformer,
    SegFormer,
    Swin,
    SwinUPerNet,
    hugging_face_names,
    randomise,
    substituted,
)
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mmseg_kd.config.file import config_path
from mmseg_kd.errors import CheckpointError, ConfigError
from mmseg_kd.migration.checkpoints.convert import Conversion, convert_checkpoint, save_conversion
from mmseg_kd.migration.checkpoints.segformer_keys import segformer_model
from mmseg_kd.migration.checkpoints.swin_keys import swin_model
from mmseg_kd.networks.build import build_network

State = dict[str, Tensor]


def save(content: Any, path: Path) -> str:
    torch.save(content, path)
    return str(path)


def images(size: tuple[int, int] = (64, 96)) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, *size, generator=generator, dtype=torch.float64)


def built(conversion: Conversion) -> Any:
    """The converted network in float64 and eval mode."""
    network = build_network(conversion.model, 'model').double()
    network.load_state_dict(conversion.state_dict, strict=True)
    network.eval()
    return network


def logits(conversion: Conversion, x: Tensor) -> Tensor:
    with torch.no_grad():
        return built(conversion)(x, mode='tensor')


def assert_same(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.fixture
def segformer() -> nn.Module:
    return randomise(SegFormer())


@pytest.fixture
def segformer_1e5() -> nn.Module:
    """With the eps of Hugging Face's code."""
    return randomise(SegFormer(eps=1e-5, embedding_eps=1e-5))


@pytest.fixture
def swin() -> nn.Module:
    return randomise(SwinUPerNet())


# NVIDIA


@pytest.mark.parametrize('size', [(64, 96), (75, 64)])
def test_nvidia_segformer_gives_the_same_logits(
    segformer: nn.Module, size: tuple[int, int], tmp_path: Path
) -> None:
    source = save(segformer.state_dict(), tmp_path / 'a.pth')
    conversion = convert_checkpoint(source)
    with torch.no_grad():
        expected = segformer(images(size))
    assert expected.std() > 0.1
    assert_same(logits(conversion, images(size)), expected)
    assert (conversion.source, conversion.layout) == (source, 'nvidia-segformer')
    assert any('eval mode' in note for note in conversion.notes)
    assert any('decode_head.conv_seg.weight' in note for note in conversion.notes)


def test_nvidia_model_dict(segformer: nn.Module, tmp_path: Path) -> None:
    model = convert_checkpoint(save(segformer.state_dict(), tmp_path / 'a.pth')).model
    backbone, head = model.backbone, model.decode_head
    assert (model.type, backbone.type) == ('EncoderDecoder', 'MixVisionTransformer')
    assert backbone.embed_dims == WIDTHS[0]
    assert tuple(backbone.num_layers) == DEPTHS
    assert tuple(backbone.num_heads) == HEADS
    assert tuple(backbone.sr_ratios) == REDUCTIONS
    assert (head.type, head.num_classes, head.channels) == ('SegformerHead', CLASSES, 12)
    assert head.act_cfg is None


def corrupted(conversion: Conversion, key: str, change: Callable[[Tensor], Tensor]) -> Conversion:
    state = dict(conversion.state_dict)
    state[key] = change(state[key])
    return Conversion('', conversion.layout, conversion.model, state, ())


@pytest.mark.parametrize(
    ('key', 'change'),
    [
        # The fusion in the original's order, coarse to fine.
        ('decode_head.fusion_conv.conv.weight', lambda w: w.unflatten(1, (4, -1)).flip(1)),
        # Keys and values the other way round.
        (
            'backbone.layers.1.1.0.attn.attn.in_proj_weight',
            lambda w: w.unflatten(0, (3, -1))[[0, 2, 1]],
        ),
        # The eps of the embedding's norm as in the other norms.
        ('backbone.layers.0.0.projection.weight', lambda w: w * 10**0.5),
        ('decode_head.convs.2.bn.running_var', lambda v: v + 1e-5),
    ],
)
def test_the_comparison_notices(
    key: str, change: Callable[[Tensor], Tensor], segformer: nn.Module, tmp_path: Path
) -> None:
    right = convert_checkpoint(save(segformer.state_dict(), tmp_path / 'a.pth'))
    wrong = corrupted(right, key, lambda t: change(t).reshape(t.shape))
    with torch.no_grad():
        expected = segformer(images())
    with pytest.raises(AssertionError):
        assert_same(logits(wrong, images()), expected)


@pytest.mark.parametrize('kind', ['stock', 'deduced'])
def test_given_model_gets_the_settings_of_the_original(
    kind: str, segformer: nn.Module, tmp_path: Path
) -> None:
    """The shapes fit a head with activations as well; its outputs would be others."""
    source = save(segformer.state_dict(), tmp_path / 'a.pth')
    model = convert_checkpoint(source).model
    if kind == 'stock':
        del model.decode_head['act_cfg'], model.backbone['norm_cfg']
        model.decode_head.norm_cfg = dict(type='BN', eps=1e-3)
    model.backbone.drop_path_rate = 0.25
    before = model.to_dict()
    conversion = convert_checkpoint(source, model=model)
    with torch.no_grad():
        assert_same(logits(conversion, images()), segformer(images()))
    assert conversion.model.backbone.drop_path_rate == 0.25
    assert model.to_dict() == before
    said = [note for note in conversion.notes if 'decode_head.act_cfg=None' in note]
    assert bool(said) == (kind == 'stock')


@pytest.mark.parametrize('prefix', ['', 'backbone.', 'module.backbone.'])
def test_nvidia_backbone_alone(prefix: str, tmp_path: Path) -> None:
    network = randomise(MixTransformer(eps=1e-6, embedding_eps=1e-6))
    state = {prefix + key: value for key, value in network.state_dict().items()}
    classifier = {'head.weight': torch.zeros(9, 32), 'head.bias': torch.zeros(9)}
    conversion = convert_checkpoint(save({**state, **classifier}, tmp_path / 'a.pth'))
    assert conversion.model.type == 'MixVisionTransformer'
    assert any('head.weight' in note for note in conversion.notes)
    assert any('eps=1e-5' in note for note in conversion.notes)
    with torch.no_grad():
        assert_same(list(built(conversion)(images())), network(images()))
    # The tensors themselves are those of the file, for a training to begin with.
    ours = conversion.state_dict['layers.2.0.projection.weight']
    assert torch.equal(ours, network.state_dict()['patch_embed3.proj.weight'])


def test_backbone_alone_as_initial_weights(tmp_path: Path) -> None:
    network = randomise(MixTransformer(eps=1e-6, embedding_eps=1e-6))
    conversion = convert_checkpoint(save(network.state_dict(), tmp_path / 'a.pth'))
    path, _ = save_conversion(conversion, tmp_path / 'b.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(path))
    started = MODELS.build({**conversion.model, 'init_cfg': init_cfg})
    started.init_weights()
    for key, value in started.state_dict().items():
        assert torch.equal(value, conversion.state_dict[key].float()), key


def test_nvidia_backbone_under_another_head(tmp_path: Path) -> None:
    network = randomise(MixTransformer())
    head = dict(type='FCNHead', in_channels=WIDTHS[3], channels=6, num_classes=CLASSES, num_convs=1)
    fcn = randomise(MODELS.build(head))
    state = {f'backbone.{k}': v for k, v in network.state_dict().items()}
    state |= {f'decode_head.{k}': v for k, v in fcn.state_dict().items()}
    source = save(state, tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match='cannot tell the network'):
        convert_checkpoint(source)
    backbone = dict(
        type='MixVisionTransformer',
        embed_dims=WIDTHS[0],
        num_layers=DEPTHS,
        num_heads=HEADS,
        sr_ratios=REDUCTIONS,
    )
    model = ConfigDict(type='EncoderDecoder', backbone=backbone, decode_head=head)
    conversion = convert_checkpoint(source, model=model)
    with torch.no_grad():
        assert_same(logits(conversion, images()), fcn(network(images())))


# Hugging Face


@pytest.mark.parametrize('names', ['file', 'memory'])
@pytest.mark.parametrize('suffix', ['.safetensors', '.bin'])
def test_hugging_face_segformer_gives_the_same_logits(
    names: str,
    suffix: str,
    segformer_1e5: nn.Module,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = hugging_face_names(segformer_1e5.state_dict())
    if names == 'memory':
        state = substituted(state, IN_MEMORY)
    path = tmp_path / f'a{suffix}'
    if suffix == '.bin':
        torch.save(state, path)
    else:
        save_file({k: v.contiguous() for k, v in state.items()}, path, {'format': 'pt'})
        # Not every version of torch that is allowed reads this format.
        monkeypatch.setattr(torch, 'load', lambda *_, **__: pytest.fail())
    conversion = convert_checkpoint(str(path))
    assert conversion.layout == 'huggingface-segformer'
    with torch.no_grad():
        assert_same(logits(conversion, images()), segformer_1e5(images()))


def test_hugging_face_names_are_theirs(segformer: nn.Module) -> None:
    """A few by hand, so that the table in this test and the one tested err not together."""
    state = hugging_face_names(segformer.state_dict())
    for key in (
        'segformer.encoder.patch_embeddings.0.proj.weight',
        'segformer.encoder.patch_embeddings.3.layer_norm.bias',
        'segformer.encoder.block.1.1.layer_norm_1.weight',
        'segformer.encoder.block.0.0.attention.self.query.weight',
        'segformer.encoder.block.0.0.attention.self.key.bias',
        'segformer.encoder.block.0.0.attention.self.value.weight',
        'segformer.encoder.block.0.0.attention.self.sr.weight',
        'segformer.encoder.block.0.0.attention.self.layer_norm.weight',
        'segformer.encoder.block.0.0.attention.output.dense.weight',
        'segformer.encoder.block.3.0.layer_norm_2.weight',
        'segformer.encoder.block.0.0.mlp.dense1.weight',
        'segformer.encoder.block.0.0.mlp.dwconv.dwconv.weight',
        'segformer.encoder.block.0.0.mlp.dense2.bias',
        'segformer.encoder.layer_norm.3.weight',
        'decode_head.linear_c.0.proj.weight',
        'decode_head.linear_fuse.weight',
        'decode_head.batch_norm.running_var',
        'decode_head.classifier.bias',
    ):
        assert key in state


@pytest.mark.parametrize('prefix', ['segformer.encoder.', 'encoder.'])
def test_hugging_face_backbone_alone(prefix: str, segformer_1e5: nn.Module, tmp_path: Path) -> None:
    state = hugging_face_names(segformer_1e5.state_dict())
    state = {
        k.replace('segformer.encoder.', prefix): v
        for k, v in state.items()
        if not k.startswith('decode_head.')
    }
    state['classifier.weight'] = torch.zeros(9, 32)
    conversion = convert_checkpoint(save(state, tmp_path / 'a.bin'))
    assert conversion.model.type == 'MixVisionTransformer'
    with torch.no_grad():
        assert_same(list(built(conversion)(images())), segformer_1e5.backbone(images()))


# Microsoft


@pytest.mark.parametrize('size', [(64, 96), (49, 70), (24, 36)])
def test_microsoft_swin_gives_the_same_logits(
    swin: nn.Module, size: tuple[int, int], tmp_path: Path
) -> None:
    conversion = convert_checkpoint(save(dict(state_dict=swin.state_dict()), tmp_path / 'a.pth'))
    assert conversion.layout == 'microsoft-swin'
    network = built(conversion)
    with torch.no_grad():
        expected = swin(images(size))
        assert expected[0].std() > 0.1
        features = network.backbone(images(size))
        actual = network.decode_head(features), network.auxiliary_head(features)
    assert_same(actual, expected)


def test_microsoft_model_dict(swin: nn.Module, tmp_path: Path) -> None:
    model = convert_checkpoint(save(swin.state_dict(), tmp_path / 'a.pth')).model
    backbone = model.backbone
    assert (backbone.type, backbone.embed_dims, backbone.window_size) == ('SwinTransformer', 6, 3)
    assert tuple(backbone.depths) == Swin.SWIN_DEPTHS
    assert tuple(backbone.num_heads) == Swin.SWIN_HEADS
    assert model.decode_head.num_classes == model.auxiliary_head.num_classes == CLASSES
    assert (model.auxiliary_head.in_index, model.auxiliary_head.num_convs) == (2, 2)


@pytest.mark.parametrize('part', ['norm.weight', 'norm.bias', 'reduction.weight'])
def test_the_order_of_merged_neighbours_is_noticed(
    part: str, swin: nn.Module, tmp_path: Path
) -> None:
    right = convert_checkpoint(save(swin.state_dict(), tmp_path / 'a.pth'))
    original = swin.state_dict()[f'backbone.layers.1.downsample.{part}']
    wrong = corrupted(right, f'backbone.stages.1.downsample.{part}', lambda _: original)
    with torch.no_grad():
        expected = swin(images())[0]
    with pytest.raises(AssertionError):
        assert_same(logits(wrong, images()), expected)


def test_microsoft_backbone_alone(tmp_path: Path) -> None:
    network = randomise(Swin(classes=9))
    assert any(key.endswith('attn_mask') for key in network.state_dict())
    conversion = convert_checkpoint(save(dict(model=network.state_dict()), tmp_path / 'a.pth'))
    assert conversion.model.type == 'SwinTransformer'
    assert any('norm.weight' in note and 'head.bias' in note for note in conversion.notes)
    converted = built(conversion)
    with torch.no_grad():
        actual = converted(images())
        for s, expected in enumerate(network(images())):
            expected = nn.functional.layer_norm(expected.movedim(1, 3), expected.shape[1:2])
            assert_same(actual[s], expected.movedim(3, 1))
    path, _ = save_conversion(conversion, tmp_path / 'b.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(path))
    started = MODELS.build({**conversion.model, 'init_cfg': init_cfg})
    started.init_weights()
    for key, value in started.state_dict().items():
        assert torch.equal(value, conversion.state_dict[key].to(value.dtype)), key


def test_swin_without_the_index_that_mmseg_computes(swin: nn.Module, tmp_path: Path) -> None:
    state = swin.state_dict()
    whole = convert_checkpoint(save(state, tmp_path / 'a.pth'))
    kept = {k: v for k, v in state.items() if not k.endswith('relative_position_index')}
    conversion = convert_checkpoint(save(kept, tmp_path / 'b.pth'))
    assert len(kept) < len(state)
    assert conversion.state_dict.keys() == whole.state_dict.keys()
    for key, value in conversion.state_dict.items():
        assert torch.equal(value, whole.state_dict[key]), key


# Forms of files


@pytest.mark.parametrize(
    'form',
    [
        lambda s: s,
        lambda s: dict(model=s, epoch=1),
        lambda s: dict(state_dict={f'module.{k}': v for k, v in s.items()}),
        lambda s: dict(
            state_dict=OrderedDict(s),
            meta=dict(mmcv_version='1.3.0', CLASSES=('a', 'b'), PALETTE=np.zeros((2, 3)), iter=9),
            optimizer=dict(state={0: dict(step=3)}, param_groups=[dict(lr=0.1)]),
        ),
    ],
    ids=['bare', 'model', 'module', 'mmcv 1.x'],
)
def test_forms_of_files(form: Callable[[Any], Any], segformer: nn.Module, tmp_path: Path) -> None:
    expected = convert_checkpoint(save(segformer.state_dict(), tmp_path / 'a.pth'))
    conversion = convert_checkpoint(save(form(segformer.state_dict()), tmp_path / 'b.pth'))
    assert conversion.model == expected.model
    assert conversion.notes == expected.notes
    for key, value in expected.state_dict.items():
        assert torch.equal(conversion.state_dict[key], value)


@pytest.mark.parametrize('side', [None, 'student', 'teacher'])
def test_sides_of_a_distillation_checkpoint(side: Any, swin: nn.Module, tmp_path: Path) -> None:
    student, teacher = randomise(SegFormer(), seed=1), randomise(SegFormer(), seed=2)
    state = {f'module.student.{k}': v for k, v in student.state_dict().items()}
    state |= {f'module.teacher.{k}': v for k, v in teacher.state_dict().items()}
    state['module.criterion.weight'] = torch.zeros(2)
    source = save(dict(state_dict=state), tmp_path / 'a.pth')
    conversion = convert_checkpoint(source, side)
    chosen, other = (teacher, 'student') if side == 'teacher' else (student, 'teacher')
    with torch.no_grad():
        assert_same(logits(conversion, images()), chosen(images()))
    left_out = f"left out {len(student.state_dict())} tensors of '{other}'"
    assert any(left_out in note for note in conversion.notes)
    assert any("left out 1 tensors of 'criterion'" in note for note in conversion.notes)


def test_side_that_is_not_there(segformer: nn.Module, tmp_path: Path) -> None:
    state = segformer.state_dict()
    plain = save(state, tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match=r'no teacher in it.*one network: give no side'):
        convert_checkpoint(plain, 'teacher')
    teacher = save({f'teacher.{k}': v for k, v in state.items()}, tmp_path / 'b.pth')
    with pytest.raises(CheckpointError, match=r'no student in it.*It has a teacher'):
        convert_checkpoint(teacher)
    assert convert_checkpoint(teacher, 'teacher').layout == 'nvidia-segformer'


def test_half_precision_becomes_float32(segformer: nn.Module, tmp_path: Path) -> None:
    state = {k: v.half() if v.is_floating_point() else v for k, v in segformer.state_dict().items()}
    conversion = convert_checkpoint(save(state, tmp_path / 'a.pth'))
    assert {v.dtype for v in conversion.state_dict.values()} == {torch.float32, torch.int64}


def test_code_in_a_pickle_is_refused(segformer: nn.Module, tmp_path: Path) -> None:
    target = tmp_path / 'written'

    for suffix in ('.pth', '.bin'):
        content = dict(state_dict=segformer.state_dict(), meta=RunsCode(open, str(target), 'w'))
        source = save(content, tmp_path / f'a{suffix}')
        with pytest.raises(CheckpointError, match='would run code'):
            convert_checkpoint(source)
        assert not target.exists()
    # A pickle under the name of a format without code is not run either.
    shutil.copy(source, tmp_path / 'a.safetensors')
    with pytest.raises(CheckpointError, match='torn or no checkpoint'):
        convert_checkpoint(str(tmp_path / 'a.safetensors'))
    assert not target.exists()


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.parametrize('kept', [0, 4, 0.5, 0.99])
def test_torn_file(suffix: str, kept: float, segformer: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / f'a{suffix}'
    if suffix == '.pth':
        torch.save(segformer.state_dict(), path)
    else:
        save_file(segformer.state_dict(), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data)) if kept < 1 else int(kept)])
    with pytest.raises(CheckpointError, match='torn or no checkpoint'):
        convert_checkpoint(str(path))


# mmseg's own layout


def test_mmseg_layout_needs_a_model(tmp_path: Path) -> None:
    network = randomise(MODELS.build(resnet()))
    other = randomise(MODELS.build(resnet(width=8)))
    state = {f'student.{k}': v for k, v in network.state_dict().items()}
    state |= {f'teacher.{k}': v for k, v in other.state_dict().items()}
    source = save(dict(state_dict=state), tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match=r"cannot tell the network.*mmseg's own"):
        convert_checkpoint(source)
    for side, original, width in (('student', network, 4), ('teacher', other, 8)):
        model = ConfigDict(resnet(width=width))
        conversion = convert_checkpoint(source, side, model)  # type: ignore[arg-type]
        assert conversion.layout == 'mmseg'
        assert conversion.model == model
        assert list(conversion.state_dict) == list(original.state_dict())
        for key, value in original.state_dict().items():
            assert torch.equal(conversion.state_dict[key], value)
    with pytest.raises(CheckpointError, match='of another shape') as caught:
        convert_checkpoint(source, 'student', ConfigDict(resnet(width=8)))
    assert 'in every tensor' in str(caught.value)


def test_mmseg_layout_of_old_files_without_counters(tmp_path: Path) -> None:
    network = randomise(MODELS.build(resnet()))
    state = {k: v for k, v in network.state_dict().items() if not k.endswith('tracked')}
    conversion = convert_checkpoint(save(state, tmp_path / 'a.pth'), model=ConfigDict(resnet()))
    assert conversion.state_dict.keys() == network.state_dict().keys()


def test_mmseg_segformer_is_told_from_its_shapes(tmp_path: Path) -> None:
    network = randomise(MODELS.build(mit()))
    conversion = convert_checkpoint(save(network.state_dict(), tmp_path / 'a.pth'))
    assert conversion.layout == 'mmseg'
    with torch.no_grad():
        assert_same(logits(conversion, images()), network(images(), mode='tensor'))
    assert any('give the model dict' in note for note in conversion.notes)


@pytest.mark.parametrize('prefix', ['', 'backbone.'])
def test_mmseg_backbone_alone(prefix: str, tmp_path: Path) -> None:
    network = randomise(MODELS.build(mit()).backbone)
    state = {prefix + k: v for k, v in network.state_dict().items()}
    conversion = convert_checkpoint(save(state, tmp_path / 'a.pth'))
    with torch.no_grad():
        assert_same(built(conversion)(images()), network(images()))


def stock(name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[ConfigDict, State]:
    """A zoo config's model dict, and tensors of its shapes."""
    for function in ('kaiming_uniform_', 'xavier_uniform_', 'uniform_'):
        monkeypatch.setattr(nn.init, function, lambda tensor, *_, **__: tensor)
    model = Config.fromfile(config_path(f'mmseg::{name}')).model
    return model, build_network(model, 'model').state_dict()


def shared(actual: Any, expected: Any) -> dict[str, tuple[Any, Any]]:
    """The entries of `actual` that `expected` has as well, with both values."""

    def plain(value: Any) -> Any:
        return list(value) if isinstance(value, tuple) else value

    return {k: (plain(v), plain(expected[k])) for k, v in actual.items() if k in expected}


@pytest.mark.parametrize('variant', range(6))
def test_variants_of_segformer(variant: int, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f'segformer/segformer_mit-b{variant}_8xb2-160k_ade20k-512x512.py'
    model, state = stock(name, monkeypatch)
    found = segformer_model(state)
    assert found is not None
    for part in ('backbone', 'decode_head'):
        entries = shared(found[part], model[part])
        assert len(entries) >= 8
        assert {k: a for k, (a, b) in entries.items() if a != b} == {}


@pytest.mark.parametrize(
    'variant',
    [
        'tiny-patch4-window7-in1k-pre',
        'small-patch4-window7-in1k-pre',
        'base-patch4-window12-in1k-384x384-pre',
        'large-patch4-window7-in22k-pre',
    ],
)
def test_variants_of_swin(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f'swin/swin-{variant}_upernet_8xb2-160k_ade20k-512x512.py'
    model, state = stock(name, monkeypatch)
    found = swin_model(state)
    assert found is not None
    for part in ('backbone', 'decode_head', 'auxiliary_head'):
        entries = shared(found[part], model[part])
        assert len(entries) >= 8
        assert {k: a for k, (a, b) in entries.items() if a != b} == {}


# What does not fit


def test_keys_that_fit_nothing(tmp_path: Path) -> None:
    state = {f'encoder.rnn.{i}.gate.bias': torch.zeros(8) for i in range(50)}
    state |= {f'encoder.rnn.{i}.gate.weight': torch.zeros(8, 3) for i in range(50)}
    state |= {f'part{"abcdefghijkl"[i]}.linear.weight': torch.zeros(i + 1, 2) for i in range(12)}
    source = save(state, tmp_path / 'a.pth')
    for model in (None, ConfigDict(resnet())):
        with pytest.raises(CheckpointError) as caught:
            convert_checkpoint(source, model=model)
        message = str(caught.value)
        assert len(re.findall(r'\S+\.\S+ \([\dx]+\)', message)) == 10
        # One of the fifty, and its weight; then one of each other part.
        assert 'encoder.rnn.0.gate.weight (8x3), parta.linear.weight (1x2), partb' in message
        assert 'encoder.rnn.1' not in message
        assert 'parti.linear.weight (9x2) and 102 more' in message
        assert 'SegFormer of NVIDIA and of Hugging Face, Swin of Microsoft' in message


def test_keys_of_one_pattern_are_told_once(tmp_path: Path) -> None:
    state = {f'rnn.{i}.weight': torch.zeros(2, 3) for i in range(30)}
    state['rnn.0.gate.weight'] = torch.zeros(4)
    with pytest.raises(CheckpointError) as caught:
        convert_checkpoint(save(state, tmp_path / 'a.pth'))
    assert str(caught.value).endswith(
        'It has rnn.0.weight (2x3), rnn.0.gate.weight (4) and 29 more.'
    )


def test_few_keys_that_fit_nothing(tmp_path: Path) -> None:
    state = {'scale': torch.tensor(1.0), 'a.weight': torch.zeros(2, 3)}
    with pytest.raises(CheckpointError, match=r'It has scale \(scalar\), a.weight \(2x3\)\.$'):
        convert_checkpoint(save(state, tmp_path / 'a.pth'))


@pytest.mark.parametrize(
    ('network', 'key'),
    [
        ('segformer', 'backbone.block2.1.attn.kv.weight'),
        ('segformer', 'backbone.block1.0.mlp.fc1.weight'),
        ('segformer', 'backbone.patch_embed1.proj.weight'),
        ('segformer', 'backbone.block2.1.norm1.weight'),
        ('segformer', 'backbone.norm4.bias'),
        ('segformer', 'decode_head.linear_c3.proj.bias'),
        ('segformer', 'decode_head.linear_fuse.bn.running_var'),
        ('segformer', 'decode_head.linear_pred.weight'),
        ('swin', 'backbone.layers.0.downsample.reduction.weight'),
        ('swin', 'backbone.layers.2.blocks.1.attn.relative_position_bias_table'),
        ('swin', 'backbone.patch_embed.proj.weight'),
        ('swin', 'backbone.norm2.weight'),
        ('swin', 'auxiliary_head.conv_seg.weight'),
        ('swin', 'decode_head.fpn_bottleneck.bn.running_mean'),
    ],
)
def test_incomplete(network: str, key: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    state = dict(request.getfixturevalue(network).state_dict())
    del state[key]
    with pytest.raises(CheckpointError, match=r'incomplete|1 missing'):
        convert_checkpoint(save(state, tmp_path / 'a.pth'))


@pytest.mark.parametrize(
    ('key', 'value'),
    [
        ('decode_head.linear_fuse.conv.weight', torch.zeros(12, 47, 1, 1)),
        ('backbone.patch_embed1.proj.weight', torch.zeros(4)),
        ('backbone.patch_embed1.proj.weight', torch.zeros(0, 3, 7, 7)),
        ('backbone.patch_embed3.proj.weight', torch.zeros(21, 8, 3, 3)),
        ('backbone.block1.0.attn.q.weight', torch.zeros(4)),
        ('backbone.block3.0.norm1.weight', torch.zeros(21)),
        ('backbone.block1.7.norm1.weight', torch.zeros(4)),
        ('backbone.surplus.weight', torch.zeros(4)),
    ],
)
def test_impossible_segformer(
    key: str, value: Tensor, segformer: nn.Module, tmp_path: Path
) -> None:
    state = {**segformer.state_dict(), key: value}
    with pytest.raises(CheckpointError):
        convert_checkpoint(save(state, tmp_path / 'a.pth'))


def test_model_that_mmseg_refuses(segformer: nn.Module, tmp_path: Path) -> None:
    source = save(segformer.state_dict(), tmp_path / 'a.pth')
    with pytest.raises(ConfigError):
        convert_checkpoint(source, model=ConfigDict(type='NoSuchThing'))


# What is written


def test_saved_files_are_read_by_mmengine(segformer: nn.Module, tmp_path: Path) -> None:
    state = {f'student.{k}': v for k, v in segformer.state_dict().items()}
    conversion = convert_checkpoint(save(state, tmp_path / 'a.pth'))
    path, config = save_conversion(conversion, tmp_path / 'new' / 'b.pth')
    assert (path, config) == (tmp_path / 'new' / 'b.pth', tmp_path / 'new' / 'b.py')
    assert sorted(p.name for p in path.parent.iterdir()) == ['b.pth', 'b.py']
    model = Config.fromfile(config).model
    assert model.to_dict() == conversion.model.to_dict()
    content = torch.load(path, weights_only=True)
    network = build_network(model, 'model').double().eval()
    network.load_state_dict(content['state_dict'], strict=True)
    with torch.no_grad():
        assert_same(network(images(), mode='tensor'), segformer(images()))
    assert content['meta']['layout'] == 'nvidia-segformer'
    assert content['meta']['source'] == conversion.source
    assert content['meta']['notes'] == list(conversion.notes)
    text = config.read_text(encoding='utf-8')
    for note in conversion.notes:
        assert note in text
    # Converting again takes it as mmseg's own.
    again = convert_checkpoint(str(path), model=model)
    assert again.layout == 'mmseg'
    assert again.model == conversion.model


def test_safetensors_are_saved(segformer: nn.Module, tmp_path: Path) -> None:
    conversion = convert_checkpoint(save(segformer.state_dict(), tmp_path / 'a.pth'))
    path, config = save_conversion(conversion, tmp_path / 'b.safetensors')
    assert config == tmp_path / 'b.py'
    again = convert_checkpoint(str(path), model=Config.fromfile(config).model)
    assert again.state_dict.keys() == conversion.state_dict.keys()
    for key, value in conversion.state_dict.items():
        assert torch.equal(again.state_dict[key], value)
    with safe_open(path, 'pt') as file:
        meta = file.metadata()
    assert meta['layout'] == 'nvidia-segformer'
    assert json.loads(meta['notes']) == list(conversion.notes)


def test_saving_twice_replaces(segformer: nn.Module, tmp_path: Path) -> None:
    conversion = convert_checkpoint(save(segformer.state_dict(), tmp_path / 'a.pth'))
    target = tmp_path / 'new' / 'b.pth'
    target.parent.mkdir()
    target.write_text('old')
    save_conversion(conversion, target)
    assert (
        torch.load(target, weights_only=True)['state_dict'].keys() == conversion.state_dict.keys()
    )


def test_failure_in_writing_leaves_nothing(
    segformer: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversion = convert_checkpoint(save(segformer.state_dict(), tmp_path / 'a.pth'))

    def fail(self: Path, *_: Any, **__: Any) -> None:
        self.write_bytes(b'half')
        raise OSError('no space left')

    monkeypatch.setattr(Path, 'write_text', fail)
    with pytest.raises(CheckpointError, match=r'cannot be written.*no space left'):
        save_conversion(conversion, tmp_path / 'new' / 'b.pth')
    assert list((tmp_path / 'new').iterdir()) == []


def test_names_that_cannot_be_written(segformer: nn.Module, tmp_path: Path) -> None:
    source = save(segformer.state_dict(), tmp_path / 'a.pth')
    conversion = convert_checkpoint(source)
    with pytest.raises(CheckpointError, match=r'ends in \.pth'):
        save_conversion(conversion, tmp_path / 'b.py')
    with pytest.raises(CheckpointError, match='cannot be written'):
        save_conversion(conversion, Path(source) / 'b.pth')
