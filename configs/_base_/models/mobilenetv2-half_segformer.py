# Half of MobileNetV2's width under a light SegFormer head, from scratch.
_base_ = './mobilenetv2_segformer.py'
model = dict(
    backbone=dict(widen_factor=0.5, init_cfg=None),
    decode_head=dict(in_channels=[16, 16, 48, 160], channels=48),
)
