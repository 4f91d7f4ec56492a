# A quarter of MobileNetV2's width under a light SegFormer head, from scratch.
_base_ = './mobilenetv2_segformer.py'
model = dict(
    backbone=dict(widen_factor=0.25, init_cfg=None),
    decode_head=dict(in_channels=[8, 8, 24, 80], channels=32),
)
