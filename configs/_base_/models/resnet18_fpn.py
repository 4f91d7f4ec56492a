# ResNet-18 with a feature pyramid, from scratch: the toy scenes' teacher.
_base_ = 'mmseg::_base_/models/fpn_r50.py'
model = dict(
    data_preprocessor=dict(size=(128, 128)),
    pretrained=None,
    backbone=dict(depth=18),
    neck=dict(in_channels=[64, 128, 256, 512], out_channels=128),
    decode_head=dict(in_channels=[128, 128, 128, 128], channels=64, num_classes=12),
)
