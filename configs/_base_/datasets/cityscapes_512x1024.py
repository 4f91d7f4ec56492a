_base_ = 'mmseg::_base_/datasets/cityscapes.py'
