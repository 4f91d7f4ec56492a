# Two teachers take turns, one drawn in each iteration: the large network, and a student that it
# taught before. Both come first:
#   configs/camvid/efficientnet-lite2_segformer_camvid-240x320.py
#   distillation_configs/camvid/efficientnet-lite2_mobilenetv2_cgd_camvid-240x320.py
_base_ = '../_base_/camvid-240x320_efficientnet-lite2_mobilenetv2.py'
model = dict(
    teacher=[
        dict(
            name='lite2',
            config='mmseg_kd::configs/camvid/efficientnet-lite2_segformer_camvid-240x320.py',
            checkpoint='work_dirs/efficientnet-lite2_segformer_camvid-240x320/iter_1200.pth',
        ),
        dict(
            name='mobilenetv2',
            config='mmseg_kd::configs/camvid/mobilenetv2_segformer_camvid-240x320.py',
            checkpoint='work_dirs/efficientnet-lite2_mobilenetv2_cgd_camvid-240x320/iter_1200.pth',
        ),
    ],
    distillation=[
        dict(
            student_layer='decode_head.conv_seg',
            teacher_layer='decode_head.conv_seg',
            loss=dict(type='CGDLoss', group_size=2, tau=4.0, ignore_index=255),
            weight=6.0,
            teacher=['lite2', 'mobilenetv2'],
            reduction='random',
        )
    ],
)
