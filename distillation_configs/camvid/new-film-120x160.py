# The same where the student sees half of the height and width of its teacher, so that a CPU can
# train it for long. new-film-240x320.py says how the teacher and its scores are made.
_base_ = ['../_base_/camvid_new-film.py', '../_base_/camvid_methods.py']
height, width = 120, 160
load, pack = _base_.train_pipeline[:2], _base_.train_pipeline[-1]
changes = [
    dict(_base_.train_pipeline[2], scale=(width, height)),
    dict(_base_.train_pipeline[3], crop_size=(height, width)),
    *_base_.train_pipeline[4:-1],
]
plain = [*load, *changes, pack]
track = dict(type='TrackPixels')
pack_scores = dict(type='PackStoredScores', folder='work_dirs/new-film-scores', stride=2)
scores = [*load, track, *changes, pack_scores]
# Larger, turned and with more of other colours: what a patient teacher is asked about.
strong = [
    dict(changes[0], ratio_range=(0.5, 3.0)),
    dict(type='RandomRotate', prob=0.5, degree=15.0, pad_val=127, seg_pad_val=255),
    *changes[1:-1],
    dict(
        changes[-1],
        brightness_delta=48,
        contrast_range=(0.4, 1.6),
        saturation_range=(0.4, 1.6),
        hue_delta=27,
    ),
]


def mixed(pipeline):
    datasets = [dict(**one, pipeline=pipeline) for one in _base_.images]
    return {
        'train_dataloader.sampler': _base_.sampler,
        'train_dataloader.dataset': dict(_delete_=True, type='MixedDataset', datasets=datasets),
    }


new = mixed(scores)
silent = mixed(plain)
# Features are not kept: the teacher runs, and sees the student's images scaled up.
live = {**silent, 'model.teacher.stored': False}
teacher = dict(**_base_.teacher, input_size=(240, 320))
test_pipeline = [*_base_.test_pipeline]
test_pipeline[1] = dict(_base_.test_pipeline[1], scale=(width, height))
train_dataloader = dict(dataset=dict(pipeline=plain))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
model = dict(student=dict(cfg_options={'model.data_preprocessor.size': (height, width)}))


def taught(*terms, **others):
    return dict(options={'model.teacher': teacher, 'model.distillation': list(terms), **others})


experiments = {
    'alone': dict(),
    'efficientnet-lite2': dict(options={'model.student.config': teacher['config']}),
    'all-masks': dict(options={'train_dataloader.dataset.indices': _base_.kept}),
    # The images of the new film without a word of the teacher.
    'images': dict(options=silent),
    'strong': dict(options={'train_dataloader.dataset.pipeline': [*load, *strong, pack]}),
    'cwd': taught(dict(recipe='cwd'), **{'train_dataloader.dataset.pipeline': scores}),
    'cwd_new': taught(dict(recipe='cwd'), **new),
    'cwd-9_new': taught(dict(recipe='cwd', weight=9.0), **new),
    'cwd_new_strong': taught(dict(recipe='cwd'), **mixed([*load, track, *strong, pack_scores])),
    'dist-cwd_new': taught(dict(recipe='dist'), dict(recipe='cwd'), **new),
    'cd_new': taught(_base_.cd, **new),
    'cgd_new': taught(_base_.cgd, **new),
    'cwd-auto_new': taught(dict(recipe='cwd', weight='auto'), **new),
    'cwd-live_new': taught(dict(recipe='cwd'), **live),
    'cwd-pkd_new': taught(dict(recipe='cwd'), dict(recipe='pkd'), **live),
    # Features for a third, then scores in their place.
    'stages_new': taught(
        dict(recipe='pkd', schedule=dict(type='Jump', end=400)),
        dict(recipe='cwd', schedule=dict(type='Jump', begin=400)),
        **live,
    ),
    # The recipe, with pixels in squares of four: each with each of eight images takes a CPU hours.
    'cirkd_new': taught(
        dict(recipe='kl'),
        dict(
            student_layer='@features',
            teacher_layer='@features',
            loss=dict(type='CIRKDLoss', tau=0.1, pool=2),
            weight=1.0,
        ),
        **live,
    ),
}
# The other recipes, as they are.
for name in ('dist', 'kl', 'dkd', 'jaccard', 'maskd'):
    experiments[f'{name}_new'] = taught(dict(recipe=name), **new)
for name in ('feature', 'pkd', 'at', 'mgd', 'ifvd', 'skd', 'afdcd'):
    experiments[f'{name}_new'] = taught(dict(recipe=name), **live)
comparison = dict(
    baseline='alone',
    seeds=3,
    iterations=2400,
    may_differ=['model.student', 'train_dataloader'],
    teacher_options={
        f'{part}_dataloader.dataset.pipeline.1.scale': (320, 240) for part in ('val', 'test')
    },
)
del load, pack, pack_scores, track, changes, plain, scores, strong, new, live
del mixed, silent, taught, name, height, width
