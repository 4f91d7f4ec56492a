_base_ = [
    '../_base_/models/mit-slim_segformer.py',
    '../_base_/datasets/camvid_240x320.py',
    '../_base_/schedules/adamw_1200.py',
    '../_base_/runtime.py',
]
model = dict(data_preprocessor=dict(size=(240, 320)), decode_head=dict(num_classes=11))
