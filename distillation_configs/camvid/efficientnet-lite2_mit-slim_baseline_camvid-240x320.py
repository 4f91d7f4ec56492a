# The student on its own, from the same initial weights: what distillation is measured against.
_base_ = '../_base_/camvid-240x320_efficientnet-lite2_mit-slim.py'
