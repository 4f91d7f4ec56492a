# A slim mix transformer (one block a stage, half of MiT-B0's width), from scratch: a student.
_base_ = 'mmseg::_base_/models/segformer_mit-b0.py'
model = dict(
    data_preprocessor=dict(size=(360, 480)),
    backbone=dict(embed_dims=16, num_layers=[1, 1, 1, 1], num_heads=[1, 2, 4, 8]),
    decode_head=dict(in_channels=[16, 32, 64, 128], channels=64, num_classes=11),
)
