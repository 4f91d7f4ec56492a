"""Configs in the format of SegDistill, as text."""

from __future__ import annotations

from pathlib import Path

SEGFORMER_HEAD = """dict(
        type='SegFormerHead',
        in_channels={in_channels},
        in_index=[0, 1, 2, 3],
        feature_strides=[4, 8, 16, 32],
        channels=128,
        dropout_ratio=0.1,
        num_classes={classes},
        norm_cfg=norm_cfg,
        align_corners=False,
        decoder_params=dict(embed_dim={width}),
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0))"""

SEGFORMER = """dict(
    type='EncoderDecoder',
    pretrained='pretrained/mit_{size}.pth',
    backbone=dict(type='mit_{size}', style='pytorch'),
    decode_head={head},
    train_cfg=dict(),
    test_cfg=dict(mode='whole'))
"""

SWIN = """dict(
    type='EncoderDecoder',
    pretrained='pretrained/swin_tiny_patch4_window7_224.pth',
    backbone=dict(
        type='SwinTransformer',
        embed_dim=96,
        depths=[2, 2, 6, 2],
        num_heads=[3, 6, 12, 24],
        window_size=7,
        mlp_ratio=4.,
        qkv_bias=True,
        qk_scale=None,
        drop_rate=0.,
        attn_drop_rate=0.,
        drop_path_rate=0.3,
        ape=False,
        patch_norm=True,
        out_indices=(0, 1, 2, 3),
        use_checkpoint=False),
    decode_head=dict(
        type='UPerHead',
        in_channels=[96, 192, 384, 768],
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3, 6),
        channels=512,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)),
    auxiliary_head=dict(
        type='FCNHead',
        in_channels=384,
        in_index=2,
        channels=256,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=0.4)),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'))
"""

PSPNET = """dict(
    type='EncoderDecoder',
    pretrained='open-mmlab://resnet{depth}_v1c',
    backbone=dict(
        type='ResNetV1c',
        depth={depth},
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        dilations=(1, 1, 2, 4),
        strides=(1, 2, 1, 1),
        norm_cfg=norm_cfg,
        norm_eval=False,
        style='pytorch',
        contract_dilation=True),
    decode_head=dict(
        type='PSPHead',
        in_channels=2048,
        in_index=3,
        channels=512,
        pool_scales=(1, 2, 3, 6),
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)),
    auxiliary_head=dict(
        type='FCNHead',
        in_channels=1024,
        in_index=2,
        channels=256,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=0.4)),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'))
"""

# Two stages, four channels: what no config of mmseg describes.
TINY = """dict(
    type='EncoderDecoder',
    pretrained=None,
    backbone=dict(
        type='ResNetV1c',
        depth=18,
        num_stages=2,
        out_indices=(0, 1),
        dilations=(1, 1),
        strides=(1, 2),
        stem_channels=4,
        base_channels={width},
        norm_cfg=norm_cfg,
        norm_eval=False,
        style='pytorch'),
    decode_head=dict(
        type='PSPHead',
        in_channels={out},
        in_index=1,
        channels=8,
        pool_scales=(1, 2),
        dropout_ratio=0.1,
        num_classes=5,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'))
"""

PIPELINES = """
img_norm_cfg = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
crop_size = {crop}
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'{labels}),
    dict(type='Resize', img_scale={scale}, ratio_range=(0.5, 2.0)),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='Normalize', **img_norm_cfg),
    dict(type='Pad', size=crop_size, pad_val=0, seg_pad_val=255),
    dict(type='DefaultFormatBundle'),
    dict(type='Collect', keys=['img', 'gt_semantic_seg']),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='MultiScaleFlipAug',
        img_scale={scale},
        # img_ratios=[0.5, 0.75, 1.0, 1.25, 1.5, 1.75],
        flip=False,
        transforms=[
            dict(type='{resize}', keep_ratio=True{divisor}),
            dict(type='RandomFlip'),
            dict(type='Normalize', **img_norm_cfg),
            dict(type='ImageToTensor', keys=['img']),
            dict(type='Collect', keys=['img']),
        ])
]
"""

ADE20K = (
    """
dataset_type = 'ADE20KDataset'
data_root = 'data/ade/ADEChallengeData2016'
"""
    + PIPELINES.format(
        crop='(512, 512)',
        scale='(2048, 512)',
        labels=', reduce_zero_label=True',
        resize='AlignedResize',
        divisor=', size_divisor=32',
    )
    + """
data = dict(
    samples_per_gpu=4,
    workers_per_gpu=4,
    train=dict(
        type='RepeatDataset',
        times=50,
        dataset=dict(
            type=dataset_type,
            data_root=data_root,
            img_dir='images/training',
            ann_dir='annotations/training',
            pipeline=train_pipeline)),
    val=dict(
        type=dataset_type,
        data_root=data_root,
        img_dir='images/validation',
        ann_dir='annotations/validation',
        pipeline=test_pipeline),
    test=dict(
        type=dataset_type,
        data_root=data_root,
        img_dir='images/validation',
        ann_dir='annotations/validation',
        pipeline=test_pipeline))
"""
)

CITYSCAPES = (
    """
dataset_type = 'CityscapesDataset'
data_root = 'data/cityscapes/'
"""
    + PIPELINES.format(
        crop='(512, 1024)', scale='(2048, 1024)', labels='', resize='Resize', divisor=''
    )
    + """
data = dict(
    samples_per_gpu=2,
    workers_per_gpu=2,
    train=dict(
        type=dataset_type,
        data_root=data_root,
        img_dir='leftImg8bit/train',
        ann_dir='gtFine/train',
        pipeline=train_pipeline),
    val=dict(
        type=dataset_type,
        data_root=data_root,
        img_dir='leftImg8bit/val',
        ann_dir='gtFine/val',
        pipeline=test_pipeline),
    test=dict(
        type=dataset_type,
        data_root=data_root,
        img_dir='leftImg8bit/val',
        ann_dir='gtFine/val',
        pipeline=test_pipeline))
"""
)

ADAMW = """
optimizer = dict(
    type='AdamW',
    lr=0.00006,
    betas=(0.9, 0.999),
    weight_decay=0.01,
    paramwise_cfg=dict(
        custom_keys={
            'pos_block': dict(decay_mult=0.),
            'norm': dict(decay_mult=0.),
            'head': dict(lr_mult=10.)
        }))
optimizer_config = dict()
lr_config = dict(
    policy='poly',
    warmup='linear',
    warmup_iters=1500,
    warmup_ratio=1e-6,
    power=1.0,
    min_lr=0.0,
    by_epoch=False)
runner = dict(type='IterBasedRunner', max_iters=160000)
checkpoint_config = dict(by_epoch=False, interval=4000)
evaluation = dict(interval=16000, metric='mIoU')
"""

SGD = """
optimizer = dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.0005)
optimizer_config = dict()
lr_config = dict(policy='poly', power=0.9, min_lr=1e-4, by_epoch=False)
runner = dict(type='IterBasedRunner', max_iters=80000)
checkpoint_config = dict(by_epoch=False, interval=8000)
evaluation = dict(interval=8000, metric='mIoU', pre_eval=True)
"""

RUNTIME = """
log_config = dict(
    interval=50,
    hooks=[
        dict(type='TextLoggerHook', by_epoch=False),
        dict(type='TensorboardLoggerHook'),
    ])
dist_params = dict(backend='nccl')
log_level = 'INFO'
load_from = None
resume_from = None
workflow = [('train', 1)]
cudnn_benchmark = True
"""

KLD = """{'student_layer': 'decode_head.linear_pred',
          'teacher_layer': 'decode_head.linear_pred',
          'loss_name': 'KLDLoss',
          'loss_config': {
              'alpha': 3,
              'tau': 2,
              'resize_config': {'mode': 'bilinear', 'align_corners': False},
              'shuffle_config': {'interval': 1000},
              'transform_config': {'loss_type': 'channel', 'group_size': 10},
              'warmup_config': {'mode': 'linear', 'warmup_iters': 2000},
              'earlydecay_config': {
                  'mode': 'linear',
                  'earlydecay_start': 110000,
                  'earlydecay_end': 120000
              },
          }}"""


def segformer(size: str = 'b0', width: int = 256, classes: int = 150) -> str:
    """A SegFormer of NVIDIA."""
    in_channels = [32, 64, 160, 256] if size == 'b0' else [64, 128, 320, 512]
    head = SEGFORMER_HEAD.format(in_channels=in_channels, classes=classes, width=width)
    return SEGFORMER.format(size=size, head=head)


def tiny(width: int = 4) -> str:
    """A PSPNet on a narrow ResNet, with 5 classes."""
    return TINY.format(width=width, out=2 * width)


def term(loss: str = 'CGDLoss', layer: str = 'decode_head.conv_seg', config: str = '{}') -> str:
    """One entry of `distillation`."""
    return (
        f"{{'student_layer': {layer!r}, 'teacher_layer': {layer!r}, 'loss_name': {loss!r}, "
        f"'loss_config': {config}}}"
    )


def sd_module(
    student: str,
    teacher: str,
    *terms: str,
    checkpoint: str = 'pretrained/teacher.pth',
    start: str | None = None,
) -> str:
    """The networks and the model."""
    return f"""
norm_cfg = dict(type='SyncBN', requires_grad=True)
find_unused_parameters = True
cfg_s = {student}
cfg_t = {teacher}
model = dict(
    type='SDModule',
    cfg_s=cfg_s,
    cfg_t=cfg_t,
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
    distillation=[{', '.join(terms)}],
    s_pretrain={start!r},
    t_pretrain={checkpoint!r})
"""


def write_old(
    folder: Path,
    model: str,
    data: str = ADE20K,
    schedule: str = ADAMW,
    runtime: str = RUNTIME,
    more: str = '',
) -> Path:
    """Write a config with three bases, as they lie in the old repository."""
    bases = dict(data=data, schedule=schedule, runtime=runtime)
    for name, text in bases.items():
        path = folder / '_base_' / f'{name}.py'
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding='utf-8')
    names = [f'../_base_/{name}.py' for name in bases]
    path = folder / 'local_configs' / 'old.py'
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'_base_ = {names}\n{model}\n{more}\n', encoding='utf-8')
    return path


def line_of(path: Path, text: str) -> int:
    """The number of the one line of a file that has `text` in it."""
    lines = path.read_text(encoding='utf-8').splitlines()
    (number,) = [i for i, line in enumerate(lines, 1) if text in line]
    return number
