"""Segmentors for mmseg's registry."""

from mmseg_kd.segmentors.distillation_wrapper import DistillationWrapper

__all__ = ['DistillationWrapper']
