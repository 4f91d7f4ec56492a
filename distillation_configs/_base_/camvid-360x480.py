# EfficientNet-lite2 teaches MobileNetV2 (ImageNet weights both).
# The teacher comes first:
#   mmseg-kd launch 2 train mmseg_kd::configs/camvid/efficientnet-lite2_segformer_camvid-360x480.py
_base_ = [
    '../../configs/_base_/datasets/camvid_360x480.py',
    '../../configs/_base_/schedules/adamw_20k.py',
    '../../configs/_base_/runtime.py',
]
model = dict(
    type='DistillationWrapper',
    teacher=dict(
        config='mmseg_kd::configs/camvid/efficientnet-lite2_segformer_camvid-360x480.py',
        checkpoint='work_dirs/efficientnet-lite2_segformer_camvid-360x480/iter_20000.pth',
    ),
    student=dict(config='mmseg_kd::configs/camvid/mobilenetv2_segformer_camvid-360x480.py'),
    distillation=[],
)
