# The methods, with the teacher that sees twice the student's height and width.
_base_ = ['../_base_/camvid-240x320_study.py', '../_base_/camvid_methods.py']
ours = 'mmseg_kd::configs/camvid/'
model = dict(
    student=dict(config=ours + 'mobilenetv2_segformer_camvid-240x320.py'),
    teacher=dict(
        config=ours + 'efficientnet-lite2_segformer_camvid-240x320.py',
        checkpoint='work_dirs/regime-240x320/teacher-480x640_4x/seed0/student_best.pth',
        input_size=(480, 640),
        autocast='bfloat16',
        channels_last=True,
    ),
    channels_last=True,
)
# The teacher's scores of whole images, from its own input, which training then cuts and turns:
#   mmseg-kd pseudo-label mmseg_kd::distillation_configs/camvid/regime-240x320.py::\
#     teacher-480x640_4x:work_dirs/regime-240x320/teacher-480x640_4x/seed0/student_best.pth \
#     data/camvid/images/train work_dirs/scores-480x640 --scores
load, changes = _base_.train_pipeline[:2], _base_.train_pipeline[2:-1]
pack = dict(type='PackStoredScores', folder='work_dirs/scores-480x640', stride=2)
stored = {
    'model.teacher.stored': True,
    'train_dataloader.dataset.pipeline': [*load, dict(type='TrackPixels'), *changes, pack],
}
# The teacher's part ends before the end: what it is wrong about is left to the masks to mend.
decay = dict(type='LinearDecay', begin=300, end=900)


def terms(*terms, **others):
    return dict(options={'model.distillation': list(terms), **others})


experiments = {
    'alone': dict(),
    'cgd': terms(_base_.cgd),
    'kl': terms(_base_.kl),
    'cwd': terms(_base_.cwd),
    'cd': terms(_base_.cd),
    'features': terms(dict(recipe='feature')),
    'cwd_features': terms(dict(recipe='mgd')),
    'kl_cgd': terms(_base_.kl, _base_.cgd),
    'kl_stored': terms(_base_.kl, **stored),
    'cgd_stored': terms(_base_.cgd, **stored),
    'dist_stored': terms(dict(recipe='dist'), **stored),
    'cwd_stored': terms(_base_.cwd, **stored),
    'cwd_stored_auto': terms(dict(**_base_.cwd, weight='auto'), **stored),
    'cwd_stored_decay': terms(dict(**_base_.cwd, schedule=decay), **stored),
    'dist_stored_decay': terms(dict(recipe='dist', schedule=decay), **stored),
}
comparison = dict(baseline='alone', seeds=3, iterations=2400, may_differ=['train_dataloader'])
del load, changes, pack, stored, decay, terms
