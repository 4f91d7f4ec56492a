# SegFormer-B3 teaches Swin-T under UPerNet (ImageNet weights) for 160k iterations.
_base_ = './ade20k-512x512_segformer-b3_segformer-b0.py'
model = dict(
    student=dict(
        config='mmseg::swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py'
    )
)
# The recipe of the student's own config.
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys=dict(
            _delete_=True,
            absolute_pos_embed=dict(decay_mult=0.0),
            relative_position_bias_table=dict(decay_mult=0.0),
            norm=dict(decay_mult=0.0),
        )
    )
)
