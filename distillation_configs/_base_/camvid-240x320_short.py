# What a method gives soon: 4 images a step, and a teacher that sees the student's images.
_base_ = ['./camvid-240x320_study.py', './camvid_methods.py']
ours = 'mmseg_kd::configs/camvid/'
train_dataloader = dict(batch_size=4)
model = dict(
    student=dict(config=ours + 'mobilenetv2_segformer_camvid-240x320.py'),
    teacher=dict(
        config=ours + 'efficientnet-lite2_segformer_camvid-240x320.py',
        checkpoint='work_dirs/regime-240x320/teacher-480x640_4x/seed0/student_best.pth',
        autocast='bfloat16',
        channels_last=True,
    ),
    channels_last=True,
)
