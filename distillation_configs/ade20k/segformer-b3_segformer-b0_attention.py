# Attention and values of the last block of the third stage, beside the class scores: a term whose
# loss takes two layers a side.
_base_ = '../_base_/ade20k-512x512_segformer-b3_segformer-b0.py'
student_block = 'backbone.layers.2.1.1.attn.attn'
teacher_block = 'backbone.layers.2.1.17.attn.attn'
model = dict(
    distillation=[
        dict(
            student_layer='decode_head.conv_seg',
            teacher_layer='decode_head.conv_seg',
            loss=dict(type='CGDLoss', group_size=10, tau=2.0),
            weight=3.0,
        ),
        dict(
            student_layer=[f'{student_block}.weights', f'{student_block}.value'],
            teacher_layer=[f'{teacher_block}.weights', f'{teacher_block}.value'],
            loss=dict(type='AttentionValueLoss'),
        ),
    ]
)
