# SegFormer-B3 teaches SegFormer-B0 (ImageNet weights) for 160k iterations, 2 images a GPU.
_base_ = [
    '../../configs/_base_/datasets/ade20k_512x512.py',
    '../../configs/_base_/schedules/adamw_160k.py',
    '../../configs/_base_/runtime.py',
]
model = dict(
    type='DistillationWrapper',
    teacher=dict(
        config='mmseg::segformer/segformer_mit-b3_8xb2-160k_ade20k-512x512.py',
        checkpoint='https://mmassets.onedl.ai/mmsegmentation/v0.5/segformer/segformer_mit-b3_512x512_160k_ade20k/'
        'segformer_mit-b3_512x512_160k_ade20k_20210726_081410-962b98d2.pth',
    ),
    student=dict(config='mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py'),
    distillation=[],
)
