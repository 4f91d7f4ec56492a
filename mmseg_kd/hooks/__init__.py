"""Hooks for the runner."""

from mmseg_kd.hooks.bad_data_hook import BadDataHook
from mmseg_kd.hooks.durable_checkpoint_hook import DurableCheckpointHook
from mmseg_kd.hooks.exact_resume_hook import ExactResumeHook
from mmseg_kd.hooks.gradient_conflict_hook import GradientConflictHook
from mmseg_kd.hooks.iteration_seed_hook import IterationSeedHook
from mmseg_kd.hooks.non_finite_hook import NonFiniteHook
from mmseg_kd.hooks.rank_zero_buffers_hook import RankZeroBuffersHook
from mmseg_kd.hooks.stop_signal_hook import StopSignalHook
from mmseg_kd.hooks.student_checkpoint_hook import StudentCheckpointHook

__all__ = [
    'BadDataHook',
    'DurableCheckpointHook',
    'ExactResumeHook',
    'GradientConflictHook',
    'IterationSeedHook',
    'NonFiniteHook',
    'RankZeroBuffersHook',
    'StopSignalHook',
    'StudentCheckpointHook',
]
