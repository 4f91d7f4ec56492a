# A quarter of ResNet-18's width with a feature pyramid, from scratch: the toy scenes' teacher.
_base_ = 'mmseg::_base_/models/fpn_r50.py'
model = dict(
    data_preprocessor=dict(size=(128, 128)),
    pretrained=None,
    backbone=dict(depth=18, base_channels=16),
    neck=dict(in_channels=[16, 32, 64, 128], out_channels=64),
    decode_head=dict(in_channels=[64, 64, 64, 64], channels=64, num_classes=12),
)
