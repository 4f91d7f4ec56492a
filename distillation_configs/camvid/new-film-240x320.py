# A film without masks: what a larger network of the same masks says of it, to a student that sees
# images of the same size.
_base_ = '../_base_/camvid_new-film.py'
pack = dict(type='PackStoredScores', folder='work_dirs/new-film-scores')
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


def taught(*terms, **others):
    return dict(
        options={'model.teacher': _base_.teacher, 'model.distillation': list(terms), **others}
    )


# The teacher, and its scores of all images of train, with masks and without:
#   mmseg-kd train mmseg_kd::distillation_configs/camvid/new-film-240x320.py::efficientnet-lite2 \
#     --amp --seed 0 --work-dir work_dirs/new-film-teacher
#   mmseg-kd pseudo-label mmseg_kd::distillation_configs/camvid/new-film-240x320.py::\
#     efficientnet-lite2:work_dirs/new-film-teacher/student_best.pth \
#     data/camvid/images/train work_dirs/new-film-scores --scores
experiments = {
    'efficientnet-lite2': dict(options={'model.student.config': _base_.teacher.config}),
    'alone': dict(),
    'all-masks': dict(options={'train_dataloader.dataset.indices': _base_.kept}),
    'cwd': taught(dict(recipe='cwd'), **{'train_dataloader.dataset.pipeline': scores}),
    'cwd_new': taught(dict(recipe='cwd'), **new),
    'cwd-9_new': taught(dict(recipe='cwd', weight=9.0), **new),
    'dist_new': taught(dict(recipe='dist'), **new),
    'dist-cwd_new': taught(dict(recipe='dist'), dict(recipe='cwd'), **new),
}
comparison = dict(
    baseline='alone', seeds=3, iterations=1800, may_differ=['model.student', 'train_dataloader']
)
del pack, load, changes, scores, new, taught
