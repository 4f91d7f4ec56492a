# SegFormer-B3 teaches PSPNet on ResNet-50 (ImageNet weights) for 160k iterations, 4 images a GPU.
_base_ = './ade20k-512x512_segformer-b3_segformer-b0.py'
train_dataloader = dict(batch_size=4, num_workers=4)
model = dict(student=dict(config='mmseg::pspnet/pspnet_r50-d8_4xb4-160k_ade20k-512x512.py'))
# The recipe of the student's own config.
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.0005),
)
param_scheduler = [
    dict(type='PolyLR', eta_min=1e-4, power=0.9, by_epoch=False, begin=0, end=160000)
]
