"""Segmentors for mmseg's registry."""

from mmseg_kd.distillation.wrapper import DistillationWrapper

__all__ = ['DistillationWrapper']
