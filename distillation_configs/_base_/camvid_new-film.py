# A new place, of which there are images and no masks. Teacher and student have the masks of the
# same two films; val is of a third one, and so is the part on which choices are made. What the
# teacher makes of that film's other images is what it has to give.
_base_ = './camvid-240x320_study.py'
first_of_third = 163
with_masks = [i for i in _base_.kept if i < first_of_third]
without = [i for i in _base_.kept if i >= first_of_third]
# Four images with masks and four of the new film in a batch; a plan adds the pipeline.
sampler = dict(_delete_=True, type='MixedSampler', ratio=(1, 1))
images = [
    dict(
        type='CamVidDataset',
        data_root='data/camvid',
        data_prefix=dict(img_path='images/train', seg_map_path='annotations/train'),
        indices=with_masks,
    ),
    dict(type='UnlabelledDataset', img_path='data/camvid/images/train', indices=without),
]
train_dataloader = dict(dataset=dict(indices=with_masks))
val_dataloader = dict(dataset=dict(indices=[i for i in _base_.held_out if i >= first_of_third]))
model = dict(
    student=dict(config='mmseg_kd::configs/camvid/mobilenetv2_segformer_camvid-240x320.py'),
    channels_last=True,
)
# Beside the methods, so that those without a teacher have none.
teacher = dict(
    config='mmseg_kd::configs/camvid/efficientnet-lite2_segformer_camvid-240x320.py',
    checkpoint='work_dirs/new-film-teacher/student_best.pth',
    stored=True,
)
