# The teacher comes first:
#   mmseg-kd train mmseg_kd::configs/toy_scenes/resnet18_fpn_toy-128x128.py
_base_ = [
    '../../configs/_base_/datasets/toy_scenes_128x128.py',
    '../../configs/_base_/schedules/adamw_toy.py',
    '../../configs/_base_/runtime.py',
]
model = dict(
    type='DistillationWrapper',
    teacher=dict(
        config='mmseg_kd::configs/toy_scenes/resnet18_fpn_toy-128x128.py',
        checkpoint='work_dirs/resnet18_fpn_toy-128x128/iter_600.pth',
    ),
    student=dict(config='mmseg_kd::configs/toy_scenes/mobilenetv2-half_segformer_toy-128x128.py'),
    distillation=[],
)
