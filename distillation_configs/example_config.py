# The example that the README explains:
#   mmseg-kd launch 8 train distillation_configs/example_config.py
_base_ = './_base_/ade20k-512x512_segformer-b3_segformer-b0.py'
model = dict(
    distillation=[
        dict(
            student_layer='decode_head.conv_seg',
            teacher_layer='decode_head.conv_seg',
            loss=dict(type='CGDLoss', group_size=10, tau=2.0),
            weight=3.0,
            schedule=[
                dict(type='LinearWarmup', end=2000),
                dict(type='LinearDecay', begin=110000, end=120000),
            ],
        )
    ]
)
