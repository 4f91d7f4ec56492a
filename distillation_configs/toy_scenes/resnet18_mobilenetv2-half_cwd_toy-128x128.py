_base_ = '../_base_/toy-128x128_resnet18_mobilenetv2-half.py'
model = dict(distillation=[dict(recipe='cwd')])
