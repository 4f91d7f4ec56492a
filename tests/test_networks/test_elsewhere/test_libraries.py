"""Segmentors out of timm, torchvision, segmentation_models_pytorch and any module."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from builders import (
    BN,
    CLASSES,
    Config,
    batch,
    build,
    gradients,
    resnet,
    same_tensors,
    save_weights,
    term,
    train,
    wrapper_config,
)
from mmengine.config import ConfigDict
from torch import Tensor, nn

from mmseg_kd.checkpoints import checkpoint_trust
from mmseg_kd.config.input_scaling import InputScaling
from mmseg_kd.distillation.task_loss import fuse_task_loss
from mmseg_kd.errors import CheckpointError, ConfigError
from mmseg_kd.evaluation.labels import scale_images
from mmseg_kd.evaluation.lean_prediction import use_lean_prediction
from mmseg_kd.networks.build import build_segmentor
from mmseg_kd.networks.elsewhere.module_segmentor import scores_of
from mmseg_kd.networks.elsewhere.torch_segmentor import save_network
from mmseg_kd.networks.layers import list_layers

HEAD = dict(channels=8, num_classes=CLASSES, norm_cfg=BN)
FCN = dict(type='FCNHead', num_convs=1, **HEAD)
TIMM = dict(type='TimmSegmentor', backbone='resnet10t', head=FCN)
TORCHVISION = dict(
    type='TorchvisionSegmentor', model='lraspp_mobilenet_v3_large', num_classes=CLASSES
)
SMP = dict(type='SMPSegmentor', arch='fpn', encoder='tu-resnet10t', num_classes=CLASSES)
TORCH = dict(type='TorchSegmentor', module='test_libraries:small', arguments=dict(width=4))
SIZE = (64, 64)


class Small(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, 2, 1)
        self.classifier = nn.Conv2d(width, CLASSES, 1)

    def forward(self, images_NCHW: Tensor) -> dict[str, Tensor]:
        return dict(out=self.classifier(self.stem(images_NCHW).relu()))


def small(width: int) -> nn.Module:
    return Small(width)


def made(config: Config) -> Any:
    if config['type'] == 'SMPSegmentor':
        pytest.importorskip('segmentation_models_pytorch')
    return build_segmentor(ConfigDict(config), 'student')


ALL = [TIMM, TORCHVISION, SMP, TORCH]
IDS = [one['type'] for one in ALL]


@pytest.mark.parametrize('config', ALL, ids=IDS)
def test_it_trains_and_predicts_as_mmseg_s_do(config: Config) -> None:
    network = made(config)
    network.init_weights()
    assert [layer for layer in list_layers(network) if layer.name == 'decode_head.conv_seg']
    data = network.data_preprocessor(batch([SIZE] * 2, blank=0.2), True)
    network.eval()
    with torch.no_grad():
        plain = network.loss(data['inputs'], data['data_samples'])
        samples = network.predict(data['inputs'], data['data_samples'])
        scores = network(data['inputs'], mode='tensor')
    labels = [sample.pred_sem_seg.data.clone() for sample in samples]
    assert labels[0].shape == (1, *SIZE) and scores.shape[:2] == (2, CLASSES)
    assert 'decode_head' in fuse_task_loss(network)
    assert use_lean_prediction(network)
    with torch.no_grad():
        fused = network.loss(data['inputs'], data['data_samples'])
        lean = network.predict(data['inputs'], data['data_samples'])
    torch.testing.assert_close(fused, plain)
    assert all(torch.equal(a, b.pred_sem_seg.data) for a, b in zip(labels, lean, strict=True))
    found = gradients(network, sizes=[SIZE] * 2)
    assert all(one is not None for one in found.values())


@pytest.mark.parametrize('config', ALL, ids=IDS)
def test_it_teaches_from_a_checkpoint(config: Config, tmp_path: Path) -> None:
    made(config)
    checkpoint = save_weights(config, tmp_path / 'teacher.pth')
    wrapper = build(wrapper_config(resnet(4), config, checkpoint, term(name='kl')))
    assert all(log['kd.kl'] >= 0 for log in train(wrapper, 1))


def test_sliding_windows() -> None:
    slide = dict(mode='slide', crop_size=(32, 32), stride=(16, 16))
    network = made({**TORCHVISION, 'test_cfg': slide}).eval()
    with torch.no_grad():
        assert network.predict(torch.randn(1, 3, *SIZE))[0].pred_sem_seg.shape == SIZE


@pytest.mark.parametrize(
    ('head', 'index', 'channels'),
    [
        (FCN, -1, 512),
        ({**FCN, 'in_index': 1}, 1, 64),
        (dict(type='SegformerHead', **HEAD), [0, 1, 2, 3, 4], [64, 64, 128, 256, 512]),
        (dict(type='UPerHead', in_index=[2, 4], pool_scales=(1,), **HEAD), [2, 4], [128, 512]),
    ],
)
def test_heads_find_the_channels_of_timm(head: Config, index: Any, channels: Any) -> None:
    network = made({**TIMM, 'head': head, 'auxiliary_head': [{**FCN, 'in_index': 2}]})
    assert network.decode_head.in_index == index
    assert network.decode_head.in_channels == channels
    assert network.auxiliary_head[0].in_channels == 128
    assert len(network(torch.randn(2, 3, *SIZE), mode='tensor')) == 2


def test_images_of_any_size_are_padded_for_timm() -> None:
    # A window transformer, whose patches must divide the image.
    swin = dict(name='swin_tiny_patch4_window7_224', depths=(1, 1, 1, 1), embed_dim=24)
    network = made({**TIMM, 'backbone': swin}).eval()
    data = network.data_preprocessor(batch([(65, 70)]), False)
    assert data['inputs'].shape[-2:] == (96, 96)
    with torch.no_grad():
        samples = network.predict(data['inputs'], data['data_samples'])
    assert samples[0].pred_sem_seg.shape == (65, 70)


def test_images_are_scaled_for_all() -> None:
    for config in (TORCHVISION, resnet(4)):
        network = made(config).eval()
        seen: list[Any] = []
        kind = next(one for one in network.modules() if isinstance(one, nn.Conv2d))
        kind.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0].shape[-2:]))
        scale_images(network, InputScaling(scale=2.0))
        with torch.no_grad():
            network(torch.randn(1, 3, *SIZE), mode='tensor')
        assert seen == [(128, 128)]


def test_smp_s_dpt_is_refused() -> None:
    pytest.importorskip('segmentation_models_pytorch')
    dpt = {**SMP, 'arch': 'dpt', 'encoder': 'tu-vit_tiny_patch16_224'}
    with pytest.raises(ConfigError, match='SMPSegmentor: arch: expected'):
        made(dpt)


def test_torchvision_s_own_scores() -> None:
    network = made(TORCHVISION).eval()
    images = torch.randn(1, 3, 48, 80)
    with torch.no_grad():
        scores = network(images, mode='tensor')
        expected = network.backbone(images)['out']
        size = dict(img_shape=(48, 80), ori_shape=(48, 80))
        torch.testing.assert_close(network.encode_decode(images, [size]), expected)
    assert scores.shape[-2:] == (6, 10)
    with pytest.raises(ConfigError, match='21 classes, got num_classes=5'):
        made({**TORCHVISION, 'pretrained': True})
    with pytest.raises(ConfigError, match="no 'fcn_resnet5' that segments; nearest: fcn_resnet50"):
        made({**TORCHVISION, 'model': 'fcn_resnet5'})


def test_smp_s_own_scores() -> None:
    smp = pytest.importorskip('segmentation_models_pytorch')
    network = made(SMP).eval()
    own = smp.create_model('fpn', 'tu-resnet10t', encoder_weights=None, classes=CLASSES).eval()
    own.load_state_dict(network.backbone.state_dict())
    images = torch.randn(1, 3, *SIZE)
    meta = dict(img_shape=SIZE, ori_shape=SIZE)
    with torch.no_grad():
        torch.testing.assert_close(network.encode_decode(images, [meta]), own(images))
        assert network(images, mode='tensor').shape[-1] == 16
    # Of any size, as validation has them.
    data = network.data_preprocessor(batch([(40, 50)]), False)
    with torch.no_grad():
        assert network.predict(**data)[0].pred_sem_seg.shape == (40, 50)


def test_smp_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'segmentation_models_pytorch', None)
    with pytest.raises(ConfigError, match=r"SMPSegmentor needs.*pip install 'mmseg-kd\[smp\]'"):
        build_segmentor(ConfigDict(SMP), 'student')


class TestTorchSegmentor:
    def test_classes_are_found(self) -> None:
        assert made(TORCH).num_classes == CLASSES

    def test_a_function_that_gives_trained_weights(self) -> None:
        config = wrapper_config(resnet(4), {**TORCH, 'pretrained': True}, '', term(name='kl'))
        del config['teacher']['checkpoint']
        train(build(config), 1)
        config['teacher']['pretrained'] = False
        with pytest.raises(ConfigError, match='teacher: expected checkpoint'):
            build(config)

    def test_a_saved_network(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path, network = tmp_path / 'teacher.pt', Small(4)
        config = dict(type='TorchSegmentor', module=str(path))
        save_network(network, path)
        found = made(config).backbone
        assert found is not network
        assert same_tensors(found.state_dict(), network.state_dict())
        # As another process sees it.
        monkeypatch.setattr('mmseg_kd.networks.elsewhere.torch_segmentor._SAVED', {})
        with pytest.raises(CheckpointError, match=r'reading one runs code.*--trust-checkpoint'):
            made(config)
        with checkpoint_trust(True):
            assert same_tensors(made(config).backbone.state_dict(), network.state_dict())
        with pytest.raises(CheckpointError, match='there is no such file'):
            made({**config, 'module': 'nowhere.pt'})

    def test_what_cannot_be_saved(self, tmp_path: Path) -> None:
        class Local(Small):
            pass

        with pytest.raises(ConfigError, match='a Local cannot be saved beside the run'):
            save_network(Local(4), tmp_path / 'teacher.pt')
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ('module', 'message'),
        [
            ('small', "expected 'package.module:function'"),
            ('no.such:small', "ModuleNotFoundError: No module named 'no'"),
            ('test_libraries:smal', "has no attribute 'smal'"),
            ('test_libraries:batch', 'TypeError'),
            ('builtins:dict', 'expected an nn.Module, got a dict'),
        ],
    )
    def test_no_network(self, module: str, message: str) -> None:
        with pytest.raises(ConfigError, match=f'student: .*{message}'):
            made({**TORCH, 'module': module})

    @pytest.mark.parametrize('output', [dict(other=1), torch.zeros(2, 3), [], None])
    def test_no_scores(self, output: Any) -> None:
        with pytest.raises(TypeError, match='expected score maps'):
            scores_of(output)
        map_NChw = torch.zeros(1, 2, 3, 4)
        assert all(
            scores_of(one) is map_NChw
            for one in (map_NChw, (map_NChw, 1), dict(out=map_NChw), dict(logits=map_NChw))
        )


def test_scores_are_scaled_by_the_losses() -> None:
    network = made(TORCH)
    data = network.data_preprocessor(batch([SIZE]), True)
    with torch.no_grad():
        (scores,) = network.extract_feat(data['inputs'])
        loss = network.loss(**data)['decode.loss_ce']
    labels = data['data_samples'][0].gt_sem_seg.data
    expected = F.cross_entropy(
        F.interpolate(scores, SIZE, mode='bilinear', align_corners=False), labels
    )
    torch.testing.assert_close(loss, expected)
