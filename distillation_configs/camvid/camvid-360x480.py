# The methods at full size. A slim transformer from scratch needs far longer than MobileNetV2.
_base_ = ['../_base_/camvid-360x480.py', '../_base_/camvid_methods.py']
mit_slim = {'model.student.config': 'configs/camvid/mit-slim_segformer_camvid-360x480.py'}
experiments = {
    'mobilenetv2_baseline': dict(),
    'mobilenetv2_kl': dict(options={'model.distillation': [_base_.kl]}),
    'mobilenetv2_cd': dict(options={'model.distillation': [_base_.cd]}),
    'mobilenetv2_cgd': dict(options={'model.distillation': [_base_.cgd]}),
    'mobilenetv2_cwd': dict(options={'model.distillation': [_base_.cwd]}),
    'mit-slim_baseline': dict(options=mit_slim),
    'mit-slim_cwd': dict(options={**mit_slim, 'model.distillation': [_base_.cwd]}),
}
