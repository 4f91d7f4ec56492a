# The methods where the gap is large and a CPU can train for long: the student sees a third of
# the height and width of its teacher, whose scores are kept, so that every step costs the same.
_base_ = ['../_base_/camvid-240x320_study.py', '../_base_/camvid_methods.py']
ours = 'mmseg_kd::configs/camvid/'
height, width = 120, 160
model = dict(
    student=dict(
        config=ours + 'mobilenetv2_segformer_camvid-240x320.py',
        cfg_options={'model.data_preprocessor.size': (height, width)},
    ),
    teacher=dict(
        config=ours + 'efficientnet-lite2_segformer_camvid-240x320.py',
        checkpoint='work_dirs/regime-240x320/teacher-360x480_2x/seed0/student_best.pth',
        input_size=(360, 480),
        stored=True,
    ),
    channels_last=True,
)
# The teacher, and its scores of whole images from its own input:
#   mmseg-kd train mmseg_kd::distillation_configs/camvid/regime-240x320.py::teacher-360x480_2x \
#     --amp --seed 0 --work-dir work_dirs/regime-240x320/teacher-360x480_2x/seed0
#   mmseg-kd pseudo-label mmseg_kd::distillation_configs/camvid/regime-240x320.py::\
#     teacher-360x480_2x:work_dirs/regime-240x320/teacher-360x480_2x/seed0/student_best.pth \
#     data/camvid/images/train work_dirs/scores-360x480 --scores
load = _base_.train_pipeline[:2]
changes = [
    dict(_base_.train_pipeline[2], scale=(width, height)),
    dict(_base_.train_pipeline[3], crop_size=(height, width)),
    *_base_.train_pipeline[4:-1],
]
pack = dict(type='PackStoredScores', folder='work_dirs/scores-360x480', stride=2)
test_pipeline = [*_base_.test_pipeline]
test_pipeline[1] = dict(_base_.test_pipeline[1], scale=(width, height))
train_dataloader = dict(dataset=dict(pipeline=[*load, dict(type='TrackPixels'), *changes, pack]))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))


def terms(*terms, **others):
    return dict(options={'model.distillation': list(terms), **others})


experiments = {
    'alone': terms(
        **{
            'model.teacher.stored': False,
            'train_dataloader.dataset.pipeline': [*load, *changes, _base_.train_pipeline[-1]],
        }
    ),
    'kl': terms(_base_.kl),
    'cd': terms(_base_.cd),
    'cgd': terms(_base_.cgd),
    'cwd': terms(_base_.cwd),
    'dist': terms(dict(recipe='dist')),
}
comparison = dict(
    baseline='alone',
    seeds=3,
    iterations=3600,
    may_differ=['train_dataloader'],
    teacher_options={
        f'{part}_dataloader.dataset.pipeline.1.scale': (480, 360) for part in ('val', 'test')
    },
)
del load, changes, pack, terms, height, width
