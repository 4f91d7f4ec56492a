"""Old networks as models of mmseg, and as references to mmseg's configs."""

from __future__ import annotations

from typing import Any

import pytest
from builders import build
from mmengine.config import Config
from mmseg.registry import MODELS
from old_configs import PSPNET, SWIN, segformer, tiny
from old_sections import notes, problems, section

from mmseg_kd.config.network_spec import parse_network
from mmseg_kd.migration.networks import Network, convert_network
from mmseg_kd.migration.sides import Sides
from mmseg_kd.migration.zoo import find_reference

IMAGES = dict(
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True,
    pad_val=0,
)
WEIGHTS = 'https://mmassets.onedl.ai/mmsegmentation/v0.5/pretrain'


def values(text: str) -> dict[str, Any]:
    """A network of `old_configs`."""
    made: dict[str, Any] = eval(text, dict(norm_cfg=dict(type='SyncBN', requires_grad=True)))
    return made


def convert(old: dict[str, Any]) -> tuple[Network, Any]:
    """The network, and the section with its report; nothing is listed."""
    one = section(old, 'model', 'cfg_s')
    network = convert_network(one)
    assert problems(one) == []
    return network, one


def same_network(one: Any, other: Any) -> bool:
    """Whether two model dicts make networks of the same layers and shapes."""
    shapes = []
    for model in (one, other):
        built = MODELS.build(model)
        layers = {name: repr(module) for name, module in built.named_modules() if name}
        tensors = {key: tensor.shape for key, tensor in built.state_dict().items()}
        shapes.append((layers, tensors))
    return shapes[0] == shapes[1]


CITYSCAPES_TEST = "mode='slide', crop_size=(1024, 1024), stride=(768, 768)"
ZOO = [
    (segformer('b0'), 'segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py', {}),
    (
        segformer('b0', classes=19),
        'segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py',
        {'model.decode_head.num_classes': 19},
    ),
    (
        segformer('b0', classes=19).replace("mode='whole'", CITYSCAPES_TEST),
        'segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024.py',
        {},
    ),
    (
        segformer('b3', 768),
        'segformer/segformer_mit-b3_8xb2-160k_ade20k-512x512.py',
        {'model.decode_head.channels': 768},
    ),
    (SWIN, 'swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py', {}),
    (PSPNET.format(depth=50), 'pspnet/pspnet_r50-d8_4xb4-160k_ade20k-512x512.py', {}),
    (PSPNET.format(depth=101), 'pspnet/pspnet_r101-d8_4xb4-160k_ade20k-512x512.py', {}),
    (
        PSPNET.format(depth=50).replace('norm_cfg=norm_cfg', "norm_cfg=dict(type='BN')"),
        'pspnet/pspnet_r50-d8_4xb4-160k_ade20k-512x512.py',
        {f'model.{p}.norm_cfg.type': 'BN' for p in ('backbone', 'decode_head', 'auxiliary_head')},
    ),
]


@pytest.mark.parametrize(('text', 'config', 'changes'), ZOO)
def test_networks_of_mmseg(text: str, config: str, changes: dict[str, Any]) -> None:
    network, _ = convert(values(text))
    reference = find_reference(network.model)
    assert reference is not None
    assert (reference.config, reference.changes) == (f'mmseg::{config}', changes)


@pytest.mark.parametrize(
    ('text', 'changes'),
    [
        (segformer('b0', classes=7), dict(test_cfg=dict(mode='slide', crop_size=(64, 64)))),
        (SWIN, {}),
        (PSPNET.format(depth=50), dict(test_cfg=dict(mode='slide'))),
    ],
    ids=['segformer', 'swin', 'pspnet'],
)
def test_a_reference_makes_the_network_that_was_written_out(
    text: str, changes: dict[str, Any]
) -> None:
    old = {**values(text), **changes}
    network, one = convert(old)
    side = Sides(IMAGES, one.report).student(network, ('model',))
    assert set(side) <= {'config', 'cfg_options'}
    spec = parse_network(side, 'student')
    plain = dict(network.model, data_preprocessor=spec.model['data_preprocessor'])
    for model in (spec.model, plain):
        model['backbone'].pop('init_cfg', None)
        model.pop('pretrained', None)
    assert same_network(replaced(spec.model), replaced(plain))
    assert spec.model['test_cfg'] == network.model['test_cfg']
    for head in ('decode_head', 'auxiliary_head'):
        loss = (spec.model.get(head) or {}).get('loss_decode')
        assert loss == (plain.get(head) or {}).get('loss_decode')


def replaced(model: Any) -> Any:
    """With BN for SyncBN."""
    return Config(dict(model=eval(repr(model).replace('SyncBN', 'BN')))).model


@pytest.mark.slow
def test_the_teacher_of_ade20k() -> None:
    """SegFormer-B3 with NVIDIA's head of 768 channels."""
    network, one = convert(values(segformer('b3', 768)))
    side = Sides(IMAGES, one.report).trained(network, 'pretrained/b3.pth', ('model', 't_pretrain'))
    spec = parse_network(side, 'teacher')
    assert spec.checkpoint == 'pretrained/b3_mmseg.pth'
    built = build(replaced({**spec.model, 'backbone': {**spec.model.backbone, 'init_cfg': None}}))
    assert built.decode_head.convs[3].conv.weight.shape == (768, 512, 1, 1)
    assert not built.decode_head.convs[3].with_activation
    assert built.decode_head.fusion_conv.with_activation
    assert len(built.backbone.layers[2][1]) == 18


def test_a_network_of_its_own_is_written_out() -> None:
    network, one = convert(values(tiny()))
    assert find_reference(network.model) is None
    side = Sides(IMAGES, one.report).student(network, ('model',))
    assert side['type'] == 'EncoderDecoder'
    assert side['backbone']['base_channels'] == 4
    build(replaced(side))


def test_a_segformer_with_many_changes_is_written_out() -> None:
    old = values(segformer('b0'))
    old['decode_head'] |= dict(in_channels=[1], in_index=[0], dropout_ratio=0.0, num_classes=3)
    old['decode_head'] |= dict(align_corners=True, norm_cfg=dict(type='BN'), ignore_index=3)
    network, _ = convert(old)
    assert find_reference(network.model) is None


def test_nvidia() -> None:
    network, one = convert(values(segformer('b0')))
    assert network.nvidia_head
    assert network.renamed
    assert network.initial_weights == 'pretrained/mit_b0.pth'
    assert network.model['decode_head']['channels'] == 256
    assert 'act_cfg' not in network.model['decode_head']
    assert [note.split(':')[0] for note in notes(one)] == [
        'model.cfg_s.backbone.style',
        'model.cfg_s.decode_head.feature_strides',
    ]


def test_microsoft() -> None:
    old = values(SWIN)
    del old['backbone']['drop_path_rate']
    old['backbone'] |= dict(use_checkpoint=True, ape=True, in_chans=4, patch_size=2, style='x')
    network, one = convert(old)
    backbone = network.model['backbone']
    assert backbone['embed_dims'] == 96
    # Microsoft's default; mmseg's is 0.1.
    assert backbone['drop_path_rate'] == 0.2
    assert backbone['with_cp'] is backbone['use_abs_pos_embed'] is True
    assert backbone['in_channels'] == 4
    assert backbone['strides'] == (2, 2, 2, 2)
    assert not {'use_checkpoint', 'ape', 'in_chans', 'embed_dim'} & set(backbone)
    assert notes(one) == ['model.cfg_s.backbone.style: dropped: a word of other backbones']


def test_networks_of_mmseg_keep_their_words() -> None:
    old = dict(
        type='EncoderDecoder',
        backbone=dict(
            type='MixVisionTransformer',
            embed_dims=8,
            init_cfg=dict(type='Pretrained', checkpoint='mine.pth'),
        ),
        decode_head=dict(
            type='SegformerHead',
            in_channels=[8],
            in_index=[0],
            channels=4,
            num_classes=2,
            loss_decode=[dict(type='CrossEntropyLoss'), dict(type='DiceLoss')],
        ),
        auxiliary_head=[
            dict(type='FCNHead', in_channels=8, channels=4, num_classes=2) for _ in range(2)
        ],
    )
    network, _ = convert(old)
    assert not network.renamed
    assert network.initial_weights == 'mine.pth'
    assert network.model['backbone'] == dict(type='MixVisionTransformer', embed_dims=8)
    assert len(network.model['decode_head']['loss_decode']) == 2
    assert len(network.model['auxiliary_head']) == 2
    assert network.model['test_cfg'] == {}


def test_what_is_listed() -> None:
    old = values(tiny())
    old['backbone'] |= dict(type='ResNetV1', deep=3)
    old['decode_head'] |= dict(sampler=None, width=3)
    old['decode_head']['loss_decode'] = dict(type='CrossEntropyLoss', beta=1)
    old |= dict(neck=dict(type='FPN', ins=3), extra=1)
    one = section(old, 'model', 'cfg_s')
    network = convert_network(one)
    listed = sorted(problems(one))
    assert listed[0].startswith(
        "model.cfg_s.backbone.type: there is no backbone 'ResNetV1' in mmseg 1.x; nearest: ResNet"
    )
    assert listed[1:] == [
        'model.cfg_s.decode_head.loss_decode.beta: CrossEntropyLoss of mmseg 1.x has no such '
        'argument, left out',
        'model.cfg_s.decode_head.width: PSPHead of mmseg 1.x has no such argument, left out',
        'model.cfg_s.extra: EncoderDecoder of mmseg 1.x has no such argument, left out',
        'model.cfg_s.neck.ins: FPN of mmseg 1.x has no such argument, left out',
    ]
    assert network.model['backbone']['deep'] == 3
    assert network.model['neck'] == dict(type='FPN')


def student(text: str, pretrained: str | None) -> tuple[dict[str, Any], Any]:
    """The student's side that starts from `pretrained`, and the report."""
    network, one = convert({**values(text), 'pretrained': pretrained})
    return Sides(IMAGES, one.report).student(network, ('model', 'cfg_s', 'pretrained')), one.report


def initial_weights(side: dict[str, Any]) -> str | None:
    """What a network that a side describes starts from."""
    model = parse_network(side, 'student').model
    init_cfg = model['backbone'].get('init_cfg') or {}
    assert not (init_cfg and model.get('pretrained'))
    found: str | None = init_cfg.get('checkpoint') or model.get('pretrained')
    return found


@pytest.mark.parametrize(
    ('text', 'old', 'new', 'command'),
    [
        # mmseg has the same weights under its own names.
        (
            segformer('b0'),
            'pretrained/mit_b0.pth',
            f'{WEIGHTS}/segformer/mit_b0_20220624-7e0fe6dd.pth',
            None,
        ),
        (
            SWIN,
            'x/swin_tiny_patch4_window7_224.pth',
            f'{WEIGHTS}/swin/swin_tiny_patch4_window7_224_20220317-1cdeb081.pth',
            None,
        ),
        (
            PSPNET.format(depth=50),
            'open-mmlab://resnet50_v1c',
            'open-mmlab://resnet50_v1c',
            None,
        ),
        # A file of one's own under old names has to be converted.
        (segformer('b0'), 'my/mit b0.pth', 'my/mit b0_mmseg.pth', "'my/mit b0.pth' 'my/mit b0_"),
        (SWIN, 'my_swin.pth', 'my_swin_mmseg.pth', 'my_swin.pth my_swin_mmseg.pth'),
        (SWIN, 'https://a.b/my_swin.pth', 'my_swin_mmseg.pth', 'my_swin.pth my_swin_mmseg.pth'),
        # ResNets have the names that they had.
        (PSPNET.format(depth=50), 'my.pth', 'my.pth', None),
        (tiny(), 'my.pth', 'my.pth', None),
        *((text, None, None, None) for text in (segformer('b0'), SWIN, tiny())),
        (PSPNET.format(depth=50), None, None, None),
    ],
)
def test_initial_weights(text: str, old: str | None, new: str | None, command: str | None) -> None:
    side, report = student(text, old)
    assert initial_weights(side) == new
    assert len(report.commands) == (command is not None)
    if command is not None:
        assert report.commands[0].startswith(f'mmseg-kd convert-segdistill checkpoint {command}')


def test_the_head_of_a_student_is_said_to_differ() -> None:
    _, report = student(segformer('b0'), None)
    assert any('batch normalisation and ReLU' in note.text for note in report.notes)
    _, report = student(SWIN, None)
    assert report.notes == []


def trained(text: str, file: str, part: str | None = None, **images: Any) -> tuple[Any, Any]:
    network, one = convert(values(text))
    sides = Sides({**IMAGES, **images}, one.report)
    return sides.trained(network, file, ('model', 't_pretrain'), part), one.report


def test_teachers() -> None:
    side, report = trained(segformer('b0'), 'pretrained/segformer.b0.512x512.pth')
    assert side['cfg_options'] == {'model.decode_head.act_cfg': None}
    assert side['checkpoint'] == 'pretrained/segformer.b0.512x512_mmseg.pth'
    assert report.commands == [
        'mmseg-kd convert-segdistill checkpoint pretrained/segformer.b0.512x512.pth '
        'pretrained/segformer.b0.512x512_mmseg.pth'
    ]
    assert any('act_cfg=None' in note.text for note in report.notes)
    side, report = trained(SWIN, 'swin.pth')
    assert side['checkpoint'] == 'swin_mmseg.pth'
    assert len(report.commands) == 1
    side, report = trained(PSPNET.format(depth=101), 'psp.pth')
    assert side['checkpoint'] == 'psp.pth'
    assert report.commands == []
    side, report = trained(tiny(), 'old.pth', 'student')
    # Weights are looked for under `student.` by whoever reads them.
    assert side['checkpoint'] == 'old.pth'
    assert report.commands == []
    side, report = trained(SWIN, 'old.pth', 'student')
    assert side['checkpoint'] == 'old_student_mmseg.pth'
    assert report.commands[0].endswith('checkpoint old.pth old_student_mmseg.pth --side student')


def test_a_teacher_gets_images_as_it_got_them() -> None:
    side, _ = trained(PSPNET.format(depth=101), 'psp.pth', mean=[1.0, 2.0, 3.0], bgr_to_rgb=False)
    assert side['cfg_options'] == {
        'model.data_preprocessor.mean': [1.0, 2.0, 3.0],
        'model.data_preprocessor.bgr_to_rgb': False,
    }
    side, _ = trained(tiny(), 'tiny.pth')
    assert side['data_preprocessor'] == 'data_preprocessor'
