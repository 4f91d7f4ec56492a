_base_ = '../_base_/toy-128x128_resnet18_mobilenetv2-half.py'
model = dict(
    distillation=[
        dict(
            student_layer='decode_head.conv_seg',
            teacher_layer='decode_head.conv_seg',
            loss=dict(type='CGDLoss', group_size=2, tau=4.0, ignore_index=255),
            weight=6.0,
        )
    ]
)
