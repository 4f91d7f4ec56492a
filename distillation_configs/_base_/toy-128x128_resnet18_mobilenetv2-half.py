# The teacher's weights come with its config, which says how they were made.
_base_ = [
    '../../configs/_base_/datasets/toy_scenes_128x128.py',
    '../../configs/_base_/schedules/adamw_toy.py',
    '../../configs/_base_/runtime.py',
]
model = dict(
    type='DistillationWrapper',
    teacher=dict(
        config='mmseg_kd::configs/toy_scenes/resnet18-quarter_fpn_toy-128x128.py',
        checkpoint='mmseg_kd::configs/toy_scenes/resnet18-quarter_fpn_toy-128x128.safetensors'
        '#sha256=b53e74d0bf8293a5c5263a2c78d3c2f4c5c7695ea0f34e8dce84f8ad48216958',
    ),
    student=dict(config='mmseg_kd::configs/toy_scenes/mobilenetv2-half_segformer_toy-128x128.py'),
    distillation=[],
)
