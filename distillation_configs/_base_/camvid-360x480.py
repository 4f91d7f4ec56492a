# EfficientNet-lite2 teaches MobileNetV2 (ImageNet weights both).
# The teacher comes first:
#   bash tools/dist_train.sh configs/camvid/efficientnet-lite2_segformer_camvid-360x480.py 2
_base_ = [
    '../../configs/_base_/datasets/camvid_360x480.py',
    '../../configs/_base_/schedules/adamw_20k.py',
    '../../configs/_base_/runtime.py',
]
model = dict(
    type='DistillationWrapper',
    teacher=dict(
        config='configs/camvid/efficientnet-lite2_segformer_camvid-360x480.py',
        checkpoint='work_dirs/efficientnet-lite2_segformer_camvid-360x480/iter_20000.pth',
    ),
    student=dict(config='configs/camvid/mobilenetv2_segformer_camvid-360x480.py'),
    distillation=[],
)
