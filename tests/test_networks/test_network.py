"""What distillation asks of networks, and how those of mmseg and any others give it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from builders import build, fcn_head, preprocessor, resnet
from mmengine.registry import DefaultScope
from mmseg.models.decode_heads.cascade_decode_head import BaseCascadeDecodeHead
from torch import Tensor, nn

from mmseg_kd.errors import ConfigError, ShapeError
from mmseg_kd.networks import Network, Preprocessing, as_network, run_to_layers
from mmseg_kd.networks.layers import list_layers
from mmseg_kd.networks.mmseg_network import MMSegNetwork
from mmseg_kd.networks.module_network import ModuleNetwork
from mmseg_kd.networks.probe import probe
from mmseg_kd.teacher import Normalisation, Teacher

BEIT = dict(
    type='BEiT',
    img_size=(64, 64),
    patch_size=16,
    embed_dims=24,
    num_layers=2,
    num_heads=2,
    mlp_ratio=2,
    out_indices=(0, 1),
    init_values=0.1,
)


class Small(nn.Module):
    """A network that is nobody's in particular."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        )
        self.dropout = nn.Dropout(0.5)
        self.classifier = nn.Conv2d(8, 5, 1)

    def forward(self, images_NCHW: Tensor) -> dict[str, Tensor]:
        return dict(out=self.classifier(self.dropout(self.stem(images_NCHW))))


class Own(Small):
    """A network that says itself what distillation asks."""

    num_classes = 5
    preprocessing = Preprocessing(mean=(100.0,) * 3, std=(50.0,) * 3)
    channels = 3
    input_sizes = ((64, 64),)

    def run(self, images_NCHW: Tensor) -> Any:
        return self(images_NCHW)['out']

    def running(self, layers: Collection[str]) -> AbstractContextManager[None]:
        return nullcontext()

    def scored_classes(self, layer: str) -> int | None:
        return 5 if layer == 'classifier' else None


class OfPoints(BaseCascadeDecodeHead):
    """As PointRend's: its `forward` is for points, and only `predict` goes over the whole map."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.fc_seg = nn.Conv2d(self.num_classes, self.num_classes, 1)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        raise NotImplementedError

    def predict(self, inputs: Any, prev_output: Tensor, batch_img_metas: Any, test_cfg: Any) -> Any:
        assert batch_img_metas[0]['img_shape'] == (128, 128)
        return self.fc_seg(prev_output)


def of_points() -> dict[str, Any]:
    head = fcn_head(8, 1)
    last = {key: head[key] for key in ('in_channels', 'in_index', 'channels', 'num_classes')}
    last = dict(type=OfPoints, align_corners=False, **last)
    cascade = dict(type='CascadeEncoderDecoder', num_stages=2, decode_head=[head, last])
    return {**resnet(4), **cascade}


def test_whose_is_whose() -> None:
    assert isinstance(as_network(build(resnet(4))), MMSegNetwork)
    assert isinstance(as_network(Small()), ModuleNetwork)
    own = Own()
    assert isinstance(own, Network) and as_network(own) is own


def test_any_module_is_run_to_its_layers() -> None:
    network = Small().eval()
    images = torch.randn(2, 3, 32, 32)
    outputs = run_to_layers(network, images, ['stem', 'classifier'])
    assert outputs['stem'].shape == (2, 8, 16, 16)
    assert torch.equal(outputs['classifier'], network(images)['out'])


def test_a_teacher_around_any_module() -> None:
    network = Small()
    network.stem[1].running_mean.uniform_(-1, 1)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = network.eval()(images)['out']
        normed = network.stem[1](network.stem[0](images))
    network.train()
    teacher = Teacher(network, ['stem.1', 'classifier'])
    assert not any(module.training for module in network.modules())
    assert not any(p.requires_grad for p in network.parameters())
    taps = teacher(images)
    torch.testing.assert_close(taps['classifier'], expected)
    # As it was before the ReLU changed it in place.
    torch.testing.assert_close(taps['stem.1'], normed)
    assert taps.image_size == (32, 32)
    assert teacher(images, layers=['stem.1']).outputs.keys() == {'stem.1'}


def test_a_teacher_of_any_module_with_images_normalised_for_another() -> None:
    raw = torch.randint(0, 256, (2, 3, 32, 32)).float()
    student = Preprocessing(mean=(120.0, 110.0, 100.0), std=(60.0, 50.0, 40.0), swaps_channels=True)
    # The student takes RGB, the teacher BGR.
    images = (raw.flip(1) - torch.tensor(student.mean).view(3, 1, 1)) / torch.tensor(
        student.std
    ).view(3, 1, 1)
    network = Own()
    teacher = Teacher(
        network, ['classifier'], normalisation=Normalisation(student, network.preprocessing)
    )
    expected = network((raw - 100) / 50)['out']
    torch.testing.assert_close(teacher(images)['classifier'], expected, rtol=1e-4, atol=1e-4)


def test_a_layer_that_does_not_run_is_refused_by_a_teacher() -> None:
    network = Small()
    network.unused = nn.Conv2d(1, 1, 1)
    with pytest.raises(ShapeError, match="teacher: 'unused' does not run"):
        Teacher(network, ['unused'])


@pytest.mark.parametrize('channels', [1, 4, 12])
def test_images_have_the_channels_that_the_network_takes(channels: int) -> None:
    mean = dict(mean=[100.0], std=[50.0], bgr_to_rgb=False)
    for changes in (mean, dict(mean=None, std=None, bgr_to_rgb=False)):
        model = resnet(4, data_preprocessor=preprocessor(**changes))
        model['backbone']['in_channels'] = channels
        network = build(model)
        assert as_network(network).channels == channels
        assert probe(network, ['decode_head.conv_seg'], 'student').images_NCHW.shape[1] == channels
        assert list_layers(network)
    assert probe(Small(channels), ['stem'], 'teacher').outputs['stem'].shape == (1, 8, 64, 64)


def test_images_have_a_size_that_the_network_takes() -> None:
    network = build({**resnet(4, decode_head=fcn_head(24, 1)), 'backbone': BEIT})
    assert (64, 64) in as_network(network).input_sizes
    found = probe(network, ['decode_head.conv_seg'], 'student')
    assert found.images_NCHW.shape == (1, 3, 64, 64)
    assert found.outputs['decode_head.conv_seg'].shape == (1, 5, 4, 4)


def test_the_size_of_a_fault_is_one_that_the_network_takes() -> None:
    network = build({**resnet(4, decode_head=fcn_head(9, 1)), 'backbone': BEIT})
    with pytest.raises(ConfigError, match=r'student: a dry run on an image of 64x64 failed'):
        probe(network, ['decode_head.conv_seg'], 'student')


def test_sizes_that_a_config_asks_for_are_tried() -> None:
    class Picky(Small):
        def forward(self, images_NCHW: Tensor) -> dict[str, Tensor]:
            assert images_NCHW.shape[-2:] == (96, 160)
            return super().forward(images_NCHW)

    assert probe(Picky(), ['stem'], 'teacher', [(96, 160)]).outputs['stem'].shape == (1, 8, 48, 80)
    with pytest.raises(ConfigError, match='128x128 failed'):
        probe(Picky(), ['stem'], 'teacher')
    images = torch.randn(1, 3, 96, 160)
    assert probe(Picky(), ['stem'], 'teacher', example_NCHW=images).images_NCHW is images


def test_a_network_without_a_tensor_mode_is_run_as_it_predicts() -> None:
    network = build(of_points()).eval()
    with pytest.raises(NotImplementedError):
        network(torch.randn(1, 3, 64, 64), mode='tensor')
    layers = ['decode_head.0.conv_seg', 'decode_head.1.fc_seg']
    found = probe(network, layers, 'teacher')
    assert found.outputs.keys() == set(layers)
    assert found.scored_classes == dict.fromkeys(layers, 5)


@pytest.mark.parametrize(
    ('layer', 'classes'),
    [
        ('decode_head.conv_seg', 5),
        ('decode_head', 5),
        ('auxiliary_head.conv_seg', 2),
        ('backbone.layer1', None),
        ('decode_head.convs.0', None),
    ],
)
def test_what_a_layer_scores(layer: str, classes: int | None) -> None:
    network = build(resnet(4, auxiliary_head=fcn_head(4, 0, classes=2)))
    assert as_network(network).scored_classes(layer) == classes


def test_what_holds_the_values_of_the_result_are_scores_whatever_its_name() -> None:
    class Plain(Small):
        def forward(self, images_NCHW: Tensor) -> Any:
            scores = super().forward(images_NCHW)['out']
            return scores.transpose(2, 3).contiguous()

    found = probe(Plain(), ['stem', 'dropout', 'classifier'], 'student')
    assert found.scored_classes == {'classifier': 5}


def test_a_network_is_built_in_a_program_without_a_scope(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DefaultScope, '_instance_dict', OrderedDict())
    assert DefaultScope.get_current_instance() is None
    wrapper = build(dict(type='DistillationWrapper', student=resnet(4)))
    assert type(wrapper.student.data_preprocessor).__name__ == 'SegDataPreProcessor'
    assert DefaultScope.get_current_instance() is None
