"""`warmup_config` and `earlydecay_config` as schedules of a term's weight."""

from __future__ import annotations

from typing import Any

from mmseg_kd.checks import is_integer, is_number
from mmseg_kd.migration.section import Section

_MODES = ('linear', 'exp', 'jump')

# Iterations in which the older spelling, `earlystop_config`, went down to 0.
_STOPPING = 10000

# `edt_config`: the weight is a hundredth after so many iterations, whatever the training's length.
_FADING = 160000


def convert_factors(config: Section, alpha: float) -> list[dict[str, Any]]:
    """The schedules that give what the old loss multiplied itself with.

    What makes no schedule is reported; the factors are then not those of the old loss.

    Args:
        config: The old `loss_config`.
        alpha: The weight, which the old exponential modes are powers of.
    """
    if config.take('edt_config'):
        return _fading(config)
    _read_numbers(config)
    schedules = []
    last_of_warmup = 0
    warmup = config.section('warmup_config')
    if warmup is not None:
        mode, last_of_warmup = warmup.take('mode'), _iteration(warmup, 'warmup_iters')
        schedules += _warmup(warmup, mode, alpha, last_of_warmup)
        warmup.close()
    decay = config.section('earlydecay_config')
    if decay is not None:
        mode, first_of_decay = decay.take('mode'), _iteration(decay, 'earlydecay_start')
        schedules += _decay(decay, mode, alpha, first_of_decay, _iteration(decay, 'earlydecay_end'))
        decay.close()
        if first_of_decay < last_of_warmup:
            decay.problem(
                'begins before the warm-up ends, where the decay alone counted: no schedule does'
            )
    return [dict(type='CountedFromOne', schedule=schedule) for schedule in schedules]


def _fading(config: Section) -> list[dict[str, Any]]:
    """The older spelling of an exponential decay, which the other factors did not count beside."""
    for key in ('warmup_config', 'earlystop_config', 'earlydecay_config'):
        config.drop(key, 'edt_config made it void', unless=[None, False, 0])
    # Twice as far down in twice the time is the same curve; it must not end with the training.
    fading = dict(type='ExponentialDecay', begin=0, end=2 * _FADING, floor=1e-4)
    return [dict(type='CountedFromOne', schedule=fading)]


def _read_numbers(config: Section) -> None:
    """The older spelling: numbers for `warmup_config` and `earlystop_config`."""
    warmup = config.peek('warmup_config')
    if is_number(warmup) and warmup:
        config.values['warmup_config'] = dict(mode='linear', warmup_iters=warmup)
        config.note(
            'read as in its last version, up in a line; before, the term was off until then: '
            f"dict(type='CountedFromOne', schedule=dict(type='Jump', begin={warmup}))",
            'warmup_config',
        )
    stop = config.take('earlystop_config')
    if not stop:
        return
    if not is_integer(stop):
        config.problem(f'expected an iteration, got {stop!r}', 'earlystop_config')
        return
    config.values['earlydecay_config'] = dict(
        mode='linear', earlydecay_start=stop, earlydecay_end=stop + _STOPPING
    )
    config.note(
        f'read as in its last version, down to 0 in {_STOPPING} iterations; before, it stopped at '
        f"once: dict(type='CountedFromOne', schedule=dict(type='Jump', end={stop + 1}))",
        'earlystop_config',
    )


def _iteration(section: Section, key: str) -> int:
    number = section.number(key, 0, is_dropped=True)
    if number != int(number):
        section.problem(f'expected a whole number, got {number!r}', key)
    return int(number)


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
    if begin < 0 or max(begin, end) <= 0:
        decay.problem(f'a decay from {begin} to {end} leaves no iteration')
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
        section.problem(f'powers of alpha={alpha} make no schedule', 'mode')
    else:
        section.problem(f'expected one of {_MODES}, got {mode!r}', 'mode')
