# CamVid for comparisons: a part of train is held out, on which choices are made; val is what is
# reported, and nothing is chosen on it. Frames that follow one another are much alike, so the part
# is blocks of twelve frames. 8 images a step in one process; 1x is what 600 such steps see.
_base_ = [
    '../../configs/_base_/datasets/camvid_240x320.py',
    '../../configs/_base_/schedules/adamw_1200.py',
    '../../configs/_base_/runtime.py',
]
kept = [i for i in range(367) if i // 12 % 6 != 5]
held_out = [i for i in range(367) if i // 12 % 6 == 5]
train_dataloader = dict(batch_size=8, num_workers=2, dataset=dict(indices=kept))
val_dataloader = dict(
    num_workers=1,
    dataset=dict(
        data_prefix=dict(img_path='images/train', seg_map_path='annotations/train'),
        indices=held_out,
    ),
)
test_dataloader = dict(num_workers=1)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=1))
model = dict(type='DistillationWrapper', distillation=[])
