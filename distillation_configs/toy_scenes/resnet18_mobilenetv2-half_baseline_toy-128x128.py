# The student on its own, from the same initial weights: what distillation is measured against.
_base_ = '../_base_/toy-128x128_resnet18_mobilenetv2-half.py'
