"""Distillation losses: forward(student_NChw, teacher_NChw, label_NHW) -> scalar."""

from mmseg_kd.losses.at_loss import ATLoss
from mmseg_kd.losses.attention_value_loss import AttentionValueLoss
from mmseg_kd.losses.boundary_loss import BoundaryLoss
from mmseg_kd.losses.cd_loss import CDLoss
from mmseg_kd.losses.cgd_loss import CGDLoss
from mmseg_kd.losses.cwd import CWD
from mmseg_kd.losses.dist_loss import DISTLoss
from mmseg_kd.losses.dkd_loss import DKDLoss
from mmseg_kd.losses.feature_loss import FeatureLoss
from mmseg_kd.losses.feature_map_loss import FeatureMapLoss
from mmseg_kd.losses.ifvd_loss import IFVDLoss
from mmseg_kd.losses.jaccard_loss import JaccardLoss
from mmseg_kd.losses.kl_loss import KLLoss
from mmseg_kd.losses.logit_loss import LogitLoss
from mmseg_kd.losses.logit_maps import LogitMaps
from mmseg_kd.losses.soft_cross_entropy_loss import SoftCrossEntropyLoss

__all__ = [
    'CWD',
    'ATLoss',
    'AttentionValueLoss',
    'BoundaryLoss',
    'CDLoss',
    'CGDLoss',
    'DISTLoss',
    'DKDLoss',
    'FeatureLoss',
    'FeatureMapLoss',
    'IFVDLoss',
    'JaccardLoss',
    'KLLoss',
    'LogitLoss',
    'LogitMaps',
    'SoftCrossEntropyLoss',
]
