"""Distillation losses: forward(student_NChw, teacher_NChw, label_NHW) -> scalar."""

from mmseg_kd.losses.at_loss import ATLoss
from mmseg_kd.losses.attention_value_loss import AttentionValueLoss
from mmseg_kd.losses.cd_loss import CDLoss
from mmseg_kd.losses.cgd_loss import CGDLoss
from mmseg_kd.losses.cirkd_loss import CIRKDLoss
from mmseg_kd.losses.cirkd_memory_loss import CIRKDMemoryLoss
from mmseg_kd.losses.feature_loss import FeatureLoss
from mmseg_kd.losses.feature_map_loss import FeatureMapLoss
from mmseg_kd.losses.ifvd_loss import IFVDLoss
from mmseg_kd.losses.kl_loss import KLLoss
from mmseg_kd.losses.logit_loss import LogitLoss
from mmseg_kd.losses.logit_maps import LogitMaps
from mmseg_kd.losses.rkd_loss import RKDLoss
from mmseg_kd.losses.skd_loss import SKDLoss

__all__ = [
    'ATLoss',
    'AttentionValueLoss',
    'CDLoss',
    'CGDLoss',
    'CIRKDLoss',
    'CIRKDMemoryLoss',
    'FeatureLoss',
    'FeatureMapLoss',
    'IFVDLoss',
    'KLLoss',
    'LogitLoss',
    'LogitMaps',
    'RKDLoss',
    'SKDLoss',
]
