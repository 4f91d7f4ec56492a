# EfficientNet-lite2 teaches MobileNetV2 (ImageNet weights both).
# The teacher comes first:
#   mmseg-kd launch 2 train mmseg_kd::configs/camvid/efficientnet-lite2_segformer_camvid-240x320.py
_base_ = [
    '../../configs/_base_/datasets/camvid_240x320.py',
    '../../configs/_base_/schedules/adamw_1200.py',
    '../../configs/_base_/runtime.py',
]
model = dict(
    type='DistillationWrapper',
    teacher=dict(
        config='mmseg_kd::configs/camvid/efficientnet-lite2_segformer_camvid-240x320.py',
        checkpoint='work_dirs/efficientnet-lite2_segformer_camvid-240x320/iter_1200.pth',
    ),
    student=dict(config='mmseg_kd::configs/camvid/mobilenetv2_segformer_camvid-240x320.py'),
    distillation=[],
)
