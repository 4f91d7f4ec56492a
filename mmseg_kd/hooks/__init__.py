"""Hooks for the runner."""

from mmseg_kd.hooks.bad_data_hook import BadDataHook
from mmseg_kd.hooks.durable_checkpoint_hook import DurableCheckpointHook
from mmseg_kd.hooks.exact_resume_hook import ExactResumeHook
from mmseg_kd.hooks.gradient_conflict_hook import GradientConflictHook
from mmseg_kd.hooks.gradient_norm_hook import GradientNormHook
from mmseg_kd.hooks.initial_weights_hook import InitialWeightsHook
from mmseg_kd.hooks.iteration_seed_hook import IterationSeedHook
from mmseg_kd.hooks.non_finite_hook import NonFiniteHook
from mmseg_kd.hooks.progress_hook import ProgressHook
from mmseg_kd.hooks.rank_zero_buffers_hook import RankZeroBuffersHook
from mmseg_kd.hooks.reference_hook import ReferenceHook
from mmseg_kd.hooks.same_run_hook import SameRunHook
from mmseg_kd.hooks.stop_signal_hook import StopSignalHook
from mmseg_kd.hooks.student_checkpoint_hook import StudentCheckpointHook
from mmseg_kd.hooks.validation_pictures_hook import ValidationPicturesHook

__all__ = [
    'BadDataHook',
    'DurableCheckpointHook',
    'ExactResumeHook',
    'GradientConflictHook',
    'GradientNormHook',
    'InitialWeightsHook',
    'IterationSeedHook',
    'NonFiniteHook',
    'ProgressHook',
    'RankZeroBuffersHook',
    'ReferenceHook',
    'SameRunHook',
    'StopSignalHook',
    'StudentCheckpointHook',
    'ValidationPicturesHook',
]
