# Networks from elsewhere, and images without masks, in 600 steps of 4 images. docs/results.md says
# how the files in work_dirs are made: ImageNet's weights in the formats of transformers and smp.
_base_ = '../_base_/camvid-240x320_short.py'
with_cgd = {'model.distillation': [_base_.cgd]}
upernet = dict(_delete_=True, type='HFSegmentor', model='work_dirs/hf-upernet-lite0')
padding = dict(size_divisor=32)
preprocessor = dict(
    type='SegDataPreProcessor',
    mean=[127.5, 127.5, 127.5],
    std=[127.5, 127.5, 127.5],
    bgr_to_rgb=True,
    pad_val=0,
    seg_pad_val=255,
    test_cfg=padding,
    **padding,
)
fpn = dict(
    _delete_=True,
    type='SMPSegmentor',
    arch='fpn',
    encoder='tu-tf_efficientnet_lite0',
    num_classes=11,
    checkpoint='work_dirs/smp-lite0.pth',
    strict=False,
    data_preprocessor=preprocessor,
)

# A tenth of the images with their masks, every tenth of those that are not held out.
kept = list(_base_.kept)
with_masks = kept[::10]
without = [i for i in kept if i not in with_masks]
few = {'train_dataloader.dataset.indices': with_masks}
mixed = {
    'train_dataloader.sampler': dict(_delete_=True, type='MixedSampler', ratio=(1, 3)),
    'train_dataloader.dataset': dict(
        _delete_=True,
        type='MixedDataset',
        datasets=[
            dict(
                type='CamVidDataset',
                data_root='data/camvid',
                data_prefix=dict(img_path='images/train', seg_map_path='annotations/train'),
                indices=with_masks,
                pipeline=_base_.train_pipeline,
            ),
            dict(
                type='UnlabelledDataset',
                img_path='data/camvid/images/train',
                indices=without,
                pipeline=_base_.train_pipeline,
            ),
        ],
    ),
}
experiments = {
    'mobilenetv2': dict(),
    'upernet': dict(options={'model.student': upernet}),
    'mobilenetv2_of-upernet': dict(
        options={
            'model.teacher': dict(_delete_=True, run='work_dirs/elsewhere-240x320/upernet/seed0'),
            **with_cgd,
        }
    ),
    'fpn': dict(options={'model.student': fpn}),
    'fpn_cgd': dict(options={'model.student': fpn, **with_cgd}),
    'tenth': dict(options=few),
    'tenth_cgd': dict(options={**few, **with_cgd}),
    'tenth_unlabelled': dict(options={**mixed, **with_cgd}),
}
comparison = dict(
    baseline='mobilenetv2',
    seeds=1,
    iterations=600,
    may_differ=['model.student', 'train_dataloader'],
)
