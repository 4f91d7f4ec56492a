"""Teachers and student in one segmentor, and how mmseg trains it."""

from mmseg_kd.distillation.layer_decay import StudentLayerDecay, StudentLearningRateDecay
from mmseg_kd.distillation.wrapper import DistillationWrapper

__all__ = ['DistillationWrapper', 'StudentLayerDecay', 'StudentLearningRateDecay']
