# The methods at half size. A slim transformer from scratch needs far longer than MobileNetV2.
_base_ = ['../_base_/camvid-240x320.py', '../_base_/camvid_methods.py']
mit_slim = {'model.student.config': 'configs/camvid/mit-slim_segformer_camvid-240x320.py'}
experiments = {
    'mobilenetv2_baseline': dict(),
    'mobilenetv2_kl': dict(options={'model.distillation': [_base_.kl]}),
    'mobilenetv2_cd': dict(options={'model.distillation': [_base_.cd]}),
    'mobilenetv2_cgd': dict(options={'model.distillation': [_base_.cgd]}),
    'mobilenetv2_cwd': dict(options={'model.distillation': [_base_.cwd]}),
    'mit-slim_baseline': dict(options=mit_slim),
    'mit-slim_cwd': dict(options={**mit_slim, 'model.distillation': [_base_.cwd]}),
    # One of them is drawn in each iteration: the large network, or a student that it taught.
    'mobilenetv2_two-teachers': dict(
        options={
            'model.teacher': [
                dict(name='lite2', **_base_.model.teacher),
                dict(
                    name='mobilenetv2',
                    config='configs/camvid/mobilenetv2_segformer_camvid-240x320.py',
                    checkpoint='work_dirs/camvid-240x320_mobilenetv2_cgd/iter_1200.pth',
                ),
            ],
            'model.distillation': [
                dict(**_base_.cgd, teacher=['lite2', 'mobilenetv2'], reduction='random')
            ],
        }
    ),
}
