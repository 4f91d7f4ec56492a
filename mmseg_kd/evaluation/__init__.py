"""Measuring networks: the metrics of mmseg, to the last count, in less time and memory."""

from mmseg_kd.evaluation.fast_iou_metric import FastIoUMetric
from mmseg_kd.evaluation.lean_prediction import use_lean_prediction
from mmseg_kd.evaluation.switch import use_fast_metrics, use_lean_prediction_in

__all__ = [
    'FastIoUMetric',
    'use_fast_metrics',
    'use_lean_prediction',
    'use_lean_prediction_in',
]
