"""Hooks for the runner."""

from mmseg_kd.hooks.gradient_conflict_hook import GradientConflictHook
from mmseg_kd.hooks.iteration_seed_hook import IterationSeedHook

__all__ = ['GradientConflictHook', 'IterationSeedHook']
