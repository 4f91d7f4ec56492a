_base_ = '../_base_/ade20k-512x512_segformer-b3_segformer-b0.py'
model = dict(
    distillation=[
        dict(
            student_layer='decode_head.conv_seg',
            teacher_layer='decode_head.conv_seg',
            loss=dict(type='KLLoss', tau=1.0),
            weight=1.0,
        )
    ]
)
