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
experiments = {
    'alone': dict(),
    'cgd': dict(options={'model.distillation': [_base_.cgd]}),
    'kl': dict(options={'model.distillation': [_base_.kl]}),
    'cwd': dict(options={'model.distillation': [dict(recipe='cwd')]}),
    'cd': dict(options={'model.distillation': [_base_.cd]}),
    'kl_cgd': dict(options={'model.distillation': [_base_.kl, _base_.cgd]}),
}
comparison = dict(baseline='alone', seeds=3, iterations=2400)
