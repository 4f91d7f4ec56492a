"""Backbones without scores, of timm and transformers, as teachers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from builders import Config, build, resnet, term, train
from hf_models import SIZE, write_model
from mmengine.config import ConfigDict

from mmseg_kd.errors import ConfigError
from mmseg_kd.networks import Network
from mmseg_kd.networks.build import build_segmentor
from mmseg_kd.networks.layers import list_layers

VIT = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, patch_size=16)


def teacher(kind: str, model: Any, **changes: Any) -> Any:
    config = ConfigDict(type=kind, model=str(model), **changes)
    return build_segmentor(config, 'teacher', or_features=True).eval()


def distilled(teacher: Config, **changes: Any) -> Any:
    cd = dict(type='CDLoss', resolution='student')
    one = term(**{**dict(student_layer='backbone.layer2', loss=cd), **changes})
    one['teacher_layer'] = 'features.0'
    return build(
        dict(type='DistillationWrapper', student=resnet(4), teacher=teacher, distillation=[one])
    )


@pytest.mark.parametrize('name', ['vit_tiny_patch16_224', 'swin_tiny_patch4_window7_224'])
def test_maps_of_timm(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = teacher('TimmFeatures', name, pretrained=False, out_indices=[1])
    assert isinstance(network, Network) and network.num_classes is None
    # Older releases of timm have Swin for one size.
    height, width = (224, 224) if name.startswith('swin') else (96, 160)
    images = torch.randn(1, 3, height, width)
    with torch.no_grad():
        (found,) = network.run(images)
        model = network.backbone.model
        expected = model(images)[0]
    expected = expected.permute(0, 3, 1, 2) if name.startswith('swin') else expected
    torch.testing.assert_close(found, expected)
    stride = 8 if name.startswith('swin') else 16
    assert found.shape[-2:] == (height // stride, width // stride)
    assert found.shape[1] == network.backbone.channels[0]
    cfg = timm.get_pretrained_cfg(name)
    assert network.preprocessing.mean == pytest.approx([255 * one for one in cfg.mean])
    assert 'features.0' in [layer.name for layer in list_layers(network)]


def test_tokens_of_timm_that_are_no_patches_are_dropped() -> None:
    network = teacher('TimmFeatures', 'vit_small_patch14_reg4_dinov2', pretrained=False)
    assert network.img_size == (518, 518)
    assert [tuple(one.shape) for one in network.run(torch.randn(1, 3, 56, 84))] == [
        (1, 384, 4, 6)
    ] * 3


def test_a_timm_model_that_is_not_there() -> None:
    with pytest.raises(
        ConfigError, match="teacher: timm has no model 'resnet10'; nearest: resnet1"
    ):
        teacher('TimmFeatures', 'resnet10')


def write_hf(folder: Path, kind: str) -> Any:
    pytest.importorskip('transformers')

    def make(t: Any) -> Any:
        if kind == 'registers':
            config = t.Dinov2WithRegistersConfig(**VIT, image_size=SIZE, num_register_tokens=4)
            return t.Dinov2WithRegistersModel(config)
        if kind == 'siglip':
            vision = dict(VIT, image_size=SIZE, intermediate_size=16)
            text = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=32)
            return t.SiglipModel(t.SiglipConfig(vision_config=vision, text_config=text))
        if kind == 'swin':
            sizes = dict(embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=2)
            return t.SwinModel(t.SwinConfig(image_size=SIZE, **sizes))
        return t.ConvNextModel(t.ConvNextConfig(depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 8, 16]))

    return write_model(folder, make, 'ViTImageProcessor')


@pytest.mark.parametrize(
    ('kind', 'before'), [('registers', 5), ('siglip', 0), ('swin', 0), ('convnext', None)]
)
def test_maps_of_transformers(tmp_path: Path, kind: str, before: int | None) -> None:
    model = write_hf(tmp_path, kind)
    network = teacher('HFFeatures', tmp_path)
    assert network.is_pretrained
    images = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        (found,) = network.run(images)
        expected = getattr(model, 'vision_model', model)(pixel_values=images).last_hidden_state
    if before is not None:
        side = int((expected.shape[1] - before) ** 0.5)
        expected = expected[:, before:].transpose(1, 2).reshape(2, -1, side, side)
    torch.testing.assert_close(found, expected)


def test_hidden_states_of_transformers(tmp_path: Path) -> None:
    model = write_hf(tmp_path, 'registers')
    images = torch.randn(1, 3, SIZE, 2 * SIZE)
    with torch.no_grad():
        found, _ = teacher('HFFeatures', tmp_path, out_indices=[1, -1]).run(images)
        states = model(pixel_values=images, output_hidden_states=True).hidden_states
    expected = states[1][:, 5:].transpose(1, 2).reshape(1, -1, SIZE // 16, 2 * SIZE // 16)
    torch.testing.assert_close(found, expected)


def test_a_student_learns_features(tmp_path: Path) -> None:
    write_hf(tmp_path, 'registers')
    wrapper = distilled(dict(type='HFFeatures', model=str(tmp_path)), name='cd')
    assert all(log['kd.cd'] > 0 for log in train(wrapper, 2))


@pytest.mark.parametrize(
    'changes',
    [
        dict(student_layer='decode_head.conv_seg'),
        dict(student_layer='backbone.layer2', loss=dict(type='KLLoss')),
    ],
)
def test_scores_have_nothing_to_learn_from_it(changes: Config) -> None:
    # Weights of any kind, which are not what this is about.
    network = dict(type='TimmFeatures', model='resnet10t', pretrained=False)
    with pytest.raises(ConfigError, match=r'gives features and no class scores, which (KL|CD)Loss'):
        distilled(network, **changes)


def test_it_is_no_student() -> None:
    config = ConfigDict(type='TimmFeatures', model='resnet10t', pretrained=False)
    with pytest.raises(ConfigError, match=r'student: expected a segmentor.*got TimmFeatures'):
        build_segmentor(config, 'student')
