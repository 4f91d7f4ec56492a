# A teacher that has seen more masks than there are for the student: of all three films, where the
# student's are of two. Of the third film the student has images and what the teacher says of them.
_base_ = '../_base_/camvid_new-film.py'
pack = dict(type='PackStoredScores', folder='work_dirs/few-masks-scores')
load, changes = _base_.train_pipeline[:2], _base_.train_pipeline[2:-1]
scores = [*load, dict(type='TrackPixels'), *changes, pack]
new = {
    'train_dataloader.sampler': _base_.sampler,
    'train_dataloader.dataset': dict(
        _delete_=True,
        type='MixedDataset',
        datasets=[dict(**one, pipeline=scores) for one in _base_.images],
    ),
}
teacher = dict(_base_.teacher, checkpoint='work_dirs/few-masks-teacher/student_best.pth')
all_masks = {'train_dataloader.dataset.indices': _base_.kept}


def taught(*terms, **others):
    return dict(options={'model.teacher': teacher, 'model.distillation': list(terms), **others})


# The teacher, and its scores of all images of train:
#   mmseg-kd train mmseg_kd::distillation_configs/camvid/few-masks-240x320.py::efficientnet-lite2 \
#     --amp --seed 0 --work-dir work_dirs/few-masks-teacher
#   mmseg-kd pseudo-label mmseg_kd::distillation_configs/camvid/few-masks-240x320.py::\
#     efficientnet-lite2:work_dirs/few-masks-teacher/student_best.pth \
#     data/camvid/images/train work_dirs/few-masks-scores --scores
experiments = {
    'efficientnet-lite2': dict(options={'model.student.config': teacher['config'], **all_masks}),
    'alone': dict(),
    'all-masks': dict(options=all_masks),
    'cwd_new': taught(dict(recipe='cwd'), **new),
    'cwd-9_new': taught(dict(recipe='cwd', weight=9.0), **new),
    'dist_new': taught(dict(recipe='dist'), **new),
}
comparison = dict(
    baseline='alone', seeds=3, iterations=1800, may_differ=['model.student', 'train_dataloader']
)
del pack, load, changes, scores, new, all_masks, taught
