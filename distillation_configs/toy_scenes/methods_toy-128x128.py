# The quickstart's networks over seeds: what a teacher gives in two minutes of training.
_base_ = '../_base_/toy-128x128_resnet18_mobilenetv2-half.py'
logits = dict(student_layer='decode_head.conv_seg', teacher_layer='decode_head.conv_seg')
cgd = dict(**logits, loss=dict(type='CGDLoss', group_size=2, tau=4.0, ignore_index=255), weight=6.0)
kl = dict(**logits, loss=dict(type='KLLoss', tau=2.0, ignore_index=255), weight=4.0)
experiments = {
    'alone': dict(),
    'cgd': dict(options={'model.distillation': [cgd]}),
    'cwd': dict(options={'model.distillation': [dict(recipe='cwd')]}),
    'dist': dict(options={'model.distillation': [dict(recipe='dist')]}),
    'kl': dict(options={'model.distillation': [kl]}),
}
comparison = dict(baseline='alone', seeds=3)
