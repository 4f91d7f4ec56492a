# Every loss once, with its published terms where it has any for scores and maps like these, in 600
# steps of 4 images: which learn, and how soon. Whether a method pays in the end is for
# methods-240x320.py to say: here the student alone is far from what it comes to.
_base_ = '../_base_/camvid-240x320_short.py'


def method(*terms):
    return dict(options={'model.distillation': list(terms)})


def term(role, weight, loss, **arguments):
    layers = dict(student_layer=role, teacher_layer=role)
    return dict(**layers, loss=dict(type=loss, **arguments), weight=weight)


def recipe(name):
    return dict(recipe=name)


queues = dict(channels=128, in_channels=64, num_classes=11)
draws = dict(pixel_draws=512, region_draws=128)
experiments = {
    'alone': dict(),
    'KLLoss': method(recipe('kl')),
    'CGDLoss': method(_base_.cgd),
    'CWD': method(recipe('cwd')),
    'CDLoss': method(_base_.cd),
    'DISTLoss': method(recipe('dist')),
    'DKDLoss': method(recipe('dkd')),
    'JaccardLoss': method(recipe('jaccard')),
    'BoundaryLoss': method(term('@scores', 1.0, 'BoundaryLoss', ignore_index=255)),
    'SoftCrossEntropyLoss': method(term('@scores', 1.0, 'SoftCrossEntropyLoss', ignore_index=255)),
    'IFVDLoss': method(recipe('ifvd')),
    'ATLoss': method(term('@scores', 1.0, 'ATLoss')),
    # Tokens learn in the first fifth, as in the paper, and not in 10000 steps.
    'MasKDLoss': method(term('@scores', 1.0, 'MasKDLoss', num_tokens=8, token_iterations=120)),
    'FeatureLoss': method(recipe('feature')),
    'AttentionTransferLoss': method(recipe('at')),
    'PKDLoss': method(recipe('pkd')),
    'MGDLoss': method(recipe('mgd')),
    'AfDCDLoss': method(
        term('@stage', 1.0, 'AfDCDLoss', feature_weight=8e-6, contrast_weight=0.01), recipe('kl')
    ),
    'CSDLoss': method(term('@features', 'auto', 'CSDLoss')),
    'FreqLoss': method(term('@features', 'auto', 'FreqLoss')),
    'RKDLoss': method(term('@features', 'auto', 'RKDLoss')),
    'SKDLoss': method(recipe('skd')),
    # Both at a cost that a CPU can bear: at the stride of the paper's maps, and with fewer draws.
    'CIRKDLoss': method(recipe('kl'), term('@features', 1.0, 'CIRKDLoss', pool=2)),
    'CIRKDMemoryLoss': method(
        recipe('kl'), term('@features', 0.1, 'CIRKDMemoryLoss', **queues, **draws)
    ),
}
comparison = dict(baseline='alone', seeds=1, iterations=600)
