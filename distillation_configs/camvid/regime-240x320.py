# How long must a network train alone until more time changes nothing, and which teacher is worth
# having? The teachers see larger images: theirs is the input that the student cannot afford.
_base_ = '../_base_/camvid-240x320_study.py'
ours = 'mmseg_kd::configs/camvid/'
student = ours + 'mobilenetv2_segformer_camvid-240x320.py'
slim = ours + 'mit-slim_segformer_camvid-240x320.py'
teacher = ours + 'efficientnet-lite2_segformer_camvid-240x320.py'


def length(times):
    return {
        'train_cfg.max_iters': 600 * times,
        'train_cfg.val_interval': 150 * times,
        'default_hooks.checkpoint.interval': 150 * times,
        'param_scheduler.0.end': 50 * times,
        'param_scheduler.1.begin': 50 * times,
        'param_scheduler.1.end': 600 * times,
    }


def larger(height, width):
    return {
        'model.student.cfg_options': {'model.data_preprocessor.size': (height, width)},
        'train_dataloader.dataset.pipeline.2.scale': (width, height),
        'train_dataloader.dataset.pipeline.3.crop_size': (height, width),
        'val_dataloader.dataset.pipeline.1.scale': (width, height),
        'test_dataloader.dataset.pipeline.1.scale': (width, height),
    }


experiments = {
    'teacher-360x480_8x': dict(
        options={'model.student.config': teacher, **length(8), **larger(360, 480)}
    ),
    'mobilenetv2_16x': dict(options={'model.student.config': student, **length(16)}),
    'teacher-480x640_4x': dict(
        options={'model.student.config': teacher, **length(4), **larger(480, 640)}
    ),
    'teacher-360x480_2x': dict(
        options={'model.student.config': teacher, **length(2), **larger(360, 480)}
    ),
    'mobilenetv2_8x': dict(options={'model.student.config': student, **length(8)}),
    'mit-slim_8x': dict(options={'model.student.config': slim, **length(8)}),
    'mobilenetv2_4x': dict(options={'model.student.config': student, **length(4)}),
    'mobilenetv2_2x': dict(options={'model.student.config': student, **length(2)}),
}
comparison = dict(
    baseline='mobilenetv2_8x',
    seeds=1,
    may_differ=['model.student', 'train_dataloader', 'val_dataloader', 'test_dataloader'],
)
