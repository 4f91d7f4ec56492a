"""`warmup_config` and `earlydecay_config` as schedules of a term's weight."""

from __future__ import annotations

from typing import Any

from mmseg_kd.migration.section import Section

_MODES = ('linear', 'exp', 'jump')


def convert_factors(config: Section, alpha: float) -> list[dict[str, Any]]:
    """The schedules that give what the old loss multiplied itself with.

    Args:
        config: The old `loss_config`.
        alpha: The weight, which the old exponential modes are powers of.
    """
    schedules = []
    last_of_warmup = 0
    warmup = config.section('warmup_config')
    if warmup is not None:
        mode, last_of_warmup = warmup.take('mode'), warmup.number('warmup_iters', 0)
        schedules += _warmup(warmup, mode, alpha, last_of_warmup)
        warmup.close()
    decay = config.section('earlydecay_config')
    if decay is not None:
        mode, first_of_decay = decay.take('mode'), decay.number('earlydecay_start', 0)
        schedules += _decay(decay, mode, alpha, first_of_decay, decay.number('earlydecay_end', 0))
        decay.close()
        if first_of_decay < last_of_warmup:
            decay.problem(
                'begins before the warm-up ends: the decay alone counted then, now both factors do'
            )
    return schedules


def _warmup(warmup: Section, mode: Any, alpha: float, end: int) -> list[dict[str, Any]]:
    if end <= 0:
        return []
    if mode == 'linear':
        return [dict(type='LinearWarmup', end=end)]
    if mode == 'jump':
        return [dict(type='Jump', begin=end)]
    if mode == 'exp' and alpha > 0:
        return [dict(type='LegacyExponentialWarmup', alpha=alpha, end=end)]
    _report_mode(warmup, mode, alpha)
    return []


def _decay(decay: Section, mode: Any, alpha: float, begin: int, end: int) -> list[dict[str, Any]]:
    if begin < 0 or end <= 0:
        decay.problem(f'a decay from {begin} to {end} leaves no iteration; left out')
        return []
    if mode in _MODES and end <= begin:
        return [dict(type='Jump', end=begin)]
    if mode == 'linear':
        return [dict(type='LinearDecay', begin=begin, end=end)]
    if mode == 'jump':
        # The old weight stayed as it was in the iteration `begin` itself.
        return [dict(type='Jump', end=begin + 1)]
    if mode == 'exp' and alpha > 0:
        return [dict(type='LegacyExponentialDecay', alpha=alpha, begin=begin, end=end)]
    _report_mode(decay, mode, alpha)
    return []


def _report_mode(section: Section, mode: Any, alpha: float) -> None:
    if mode == 'exp':
        section.problem(f'powers of alpha={alpha} make no schedule; left out', 'mode')
    else:
        section.problem(f'expected one of {_MODES}, got {mode!r}; left out', 'mode')
