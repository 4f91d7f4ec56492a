_base_ = '../_base_/ade20k-512x512_segformer-b3_segformer-b0.py'
model = dict(
    distillation=[
        dict(
            student_layer='decode_head.conv_seg',
            teacher_layer='decode_head.conv_seg',
            loss=dict(type='CGDLoss', group_size=10, tau=2.0),
            weight=3.0,
        )
    ]
)
