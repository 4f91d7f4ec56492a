"""Distillation losses: forward(student_NChw, teacher_NChw, label_NHW) -> scalar."""

from mmseg_kd.losses.afdcd_loss import AfDCDLoss
from mmseg_kd.losses.at_loss import ATLoss
from mmseg_kd.losses.attention_transfer_loss import AttentionTransferLoss
from mmseg_kd.losses.attention_value_loss import AttentionValueLoss
from mmseg_kd.losses.boundary_loss import BoundaryLoss
from mmseg_kd.losses.cd_loss import CDLoss
from mmseg_kd.losses.cgd_loss import CGDLoss
from mmseg_kd.losses.cirkd_loss import CIRKDLoss
from mmseg_kd.losses.cirkd_memory_loss import CIRKDMemoryLoss
from mmseg_kd.losses.csd_loss import CSDLoss
from mmseg_kd.losses.cwd import CWD
from mmseg_kd.losses.dist_loss import DISTLoss
from mmseg_kd.losses.dkd_loss import DKDLoss
from mmseg_kd.losses.feature_loss import FeatureLoss
from mmseg_kd.losses.feature_map_loss import FeatureMapLoss, LearningFeatureMapLoss
from mmseg_kd.losses.freq_loss import FreqLoss
from mmseg_kd.losses.ifvd_loss import IFVDLoss
from mmseg_kd.losses.jaccard_loss import JaccardLoss
from mmseg_kd.losses.kl_loss import KLLoss
from mmseg_kd.losses.logit_loss import LogitLoss
from mmseg_kd.losses.logit_maps import LogitMaps
from mmseg_kd.losses.maskd_loss import MasKDLoss
from mmseg_kd.losses.mgd_loss import MGDLoss
from mmseg_kd.losses.pkd_loss import PKDLoss
from mmseg_kd.losses.rkd_loss import RKDLoss
from mmseg_kd.losses.skd_loss import SKDLoss
from mmseg_kd.losses.soft_cross_entropy_loss import SoftCrossEntropyLoss

__all__ = [
    'CWD',
    'ATLoss',
    'AfDCDLoss',
    'AttentionTransferLoss',
    'AttentionValueLoss',
    'BoundaryLoss',
    'CDLoss',
    'CGDLoss',
    'CIRKDLoss',
    'CIRKDMemoryLoss',
    'CSDLoss',
    'DISTLoss',
    'DKDLoss',
    'FeatureLoss',
    'FeatureMapLoss',
    'FreqLoss',
    'IFVDLoss',
    'JaccardLoss',
    'KLLoss',
    'LearningFeatureMapLoss',
    'LogitLoss',
    'LogitMaps',
    'MGDLoss',
    'MasKDLoss',
    'PKDLoss',
    'RKDLoss',
    'SKDLoss',
    'SoftCrossEntropyLoss',
]
