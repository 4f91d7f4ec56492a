# The weights beside this file are from 4000 scenes of another seed than the student's:
#   mmseg-kd toy-scenes data/toy_scenes_teacher --train 4000 --seed 1
#   mmseg-kd train mmseg_kd::configs/toy_scenes/resnet18-quarter_fpn_toy-128x128.py
_base_ = [
    '../_base_/models/resnet18-quarter_fpn.py',
    '../_base_/datasets/toy_scenes_128x128.py',
    '../_base_/schedules/adamw_toy.py',
    '../_base_/runtime.py',
]
model = dict(data_preprocessor=dict(size=(128, 128)), decode_head=dict(num_classes=12))
train_dataloader = dict(batch_size=16, dataset=dict(data_root='data/toy_scenes_teacher'))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=200),
    dict(type='PolyLR', eta_min=0.0, power=1.0, by_epoch=False, begin=200, end=6000),
    dict(type='LinearLR', start_factor=1.0, end_factor=0.0, by_epoch=False, begin=4000, end=5000),
]
train_cfg = dict(max_iters=5000, val_interval=1000)
default_hooks = dict(checkpoint=dict(interval=1000), logger=dict(interval=100))
