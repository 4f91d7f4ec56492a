# How long must a network train alone until more time changes nothing? Each at several lengths.
_base_ = '../_base_/camvid-360x480_study.py'
networks = {
    'mobilenetv2': 'mmseg_kd::configs/camvid/mobilenetv2_segformer_camvid-360x480.py',
    'lite2': 'mmseg_kd::configs/camvid/efficientnet-lite2_segformer_camvid-360x480.py',
    'mit-slim': 'mmseg_kd::configs/camvid/mit-slim_segformer_camvid-360x480.py',
}
experiments = {
    f'{name}_{times}x': dict(
        options={
            'model.student.config': network,
            'train_cfg.max_iters': 600 * times,
            'train_cfg.val_interval': 150 * times,
            'param_scheduler.0.end': 50 * times,
            'param_scheduler.1.begin': 50 * times,
            'param_scheduler.1.end': 600 * times,
            'default_hooks.checkpoint.interval': 150 * times,
        }
    )
    for name, network in networks.items()
    for times in (1, 2, 4, 8, 16)
}
comparison = dict(baseline='mobilenetv2_8x', may_differ=['model.student'])
