_base_ = [
    '../_base_/models/mobilenetv2-half_segformer.py',
    '../_base_/datasets/toy_scenes_128x128.py',
    '../_base_/schedules/adamw_toy.py',
    '../_base_/runtime.py',
]
model = dict(data_preprocessor=dict(size=(128, 128)), decode_head=dict(num_classes=12))
