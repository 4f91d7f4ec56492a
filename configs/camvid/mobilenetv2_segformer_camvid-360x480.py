_base_ = [
    '../_base_/models/mobilenetv2_segformer.py',
    '../_base_/datasets/camvid_360x480.py',
    '../_base_/schedules/adamw_20k.py',
    '../_base_/runtime.py',
]
model = dict(data_preprocessor=dict(size=(360, 480)), decode_head=dict(num_classes=11))
