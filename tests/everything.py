"""A distillation with all that has a state or draws at random, on networks of toy size."""

from __future__ import annotations

from pathlib import Path

from builders import mit, resnet, save_weights, term, write_config, write_dataset

# Augmentation, several groups of parameters, and everything that has a state.
EVERYTHING = """
train_pipeline = [
    *load,
    dict(type='RandomResize', scale=(32, 32), ratio_range=(1.0, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(32, 32)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
train_dataloader['dataset']['pipeline'] = train_pipeline
train_cfg = dict(type='IterBasedTrainLoop', max_iters=40, val_interval=10)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=0.01),
    clip_grad=dict(max_norm=1.0),
    paramwise_cfg=dict(custom_keys={'decode_head': dict(lr_mult=10.0)}),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=10),
    dict(type='PolyLR', power=0.9, eta_min=1e-4, by_epoch=False, begin=10, end=40),
    dict(type='LinearMomentum', start_factor=0.5, by_epoch=False, begin=0, end=30),
    dict(type='ReduceOnPlateauLR', monitor='mIoU', rule='greater', patience=1, by_epoch=True),
]
default_hooks['checkpoint'] = dict(
    type='CheckpointHook', by_epoch=False, interval=7, max_keep_ckpts=3, save_best='mIoU'
)
log_processor = dict(by_epoch=False, window_size=5)
custom_hooks = [
    dict(type='EMAHook', ema_type='MomentumAnnealingEMA', momentum=0.01, gamma=10),
    dict(type='EarlyStoppingHook', monitor='mIoU', min_delta=0.01, patience=100),
    dict(type='GradientConflictHook', interval=5),
]
"""


def write_everything(folder: Path) -> Path:
    """Write the config, its teachers and five images into a folder.

    Dropout, drop path, two teachers that take turns, weights that change over the iterations and
    that set themselves, shuffles, a connector, channels_last.
    """
    teachers = [
        {**network, 'checkpoint': save_weights(network, folder / f'{index}.pth', seed=index)}
        for index, network in enumerate([resnet(8), mit(16)])
    ]
    scores = term(
        name='scores',
        teacher=[0, 1],
        reduction='random',
        loss=dict(type='CGDLoss', group_size=2, shuffle_interval=3),
        schedule=dict(type='LinearWarmup', end=15),
    )
    features = term(
        *['backbone.layers.0.2'] * 2,
        'CDLoss',
        name='features',
        teacher=1,
        weight=dict(share=0.5, conflict='project'),
        schedule=dict(type='Jump', begin=12, end=33),
    )
    model = dict(
        type='DistillationWrapper',
        student=mit(8),
        teacher=teachers,
        distillation=[scores, features],
        channels_last=True,
    )
    path = write_config(folder, model, write_dataset(folder / 'data', train=5))
    path.write_text(path.read_text(encoding='utf-8') + EVERYTHING, encoding='utf-8')
    return path
