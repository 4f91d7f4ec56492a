"""`optimizer`, `optimizer_config`, `fp16` and `lr_config`: what steps are taken."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from mmengine.registry import OPTIMIZERS

from mmseg_kd.migration.layers import MIT
from mmseg_kd.migration.networks import Network
from mmseg_kd.migration.registered import as_it_is
from mmseg_kd.migration.section import Section

_FP16_HOOKS = ('Fp16OptimizerHook', 'GradientCumulativeFp16OptimizerHook')
_HOOKS = ('OptimizerHook', 'GradientCumulativeOptimizerHook')

# Parts of names that are the same in the old networks and in mmseg's.
_LASTING_NAMES = {
    'absolute_pos_embed',
    'auxiliary_head',
    'backbone',
    'bias',
    'decode_head',
    'head',
    'norm',
    'pos_block',
    'relative_position_bias_table',
}


def convert_optimiser(config: Section, student: Network) -> dict[str, Any]:
    """The new `optim_wrapper`.

    Args:
        config: The whole old config.
        student: The network that is optimised.
    """
    optimiser = config.section('optimizer')
    wrapper: dict[str, Any] = dict(type='OptimWrapper')
    if optimiser is None:
        config.problem('expected an optimizer, got none', 'optimizer')
    else:
        paramwise = optimiser.section('paramwise_cfg')
        constructor = optimiser.take('constructor', 'DefaultOptimizerConstructor')
        if constructor != 'DefaultOptimizerConstructor':
            optimiser.problem(f'{constructor} is of the old world, left out', 'constructor')
        wrapper['optimizer'] = as_it_is(optimiser, OPTIMIZERS, 'optimiser')
        if paramwise is not None:
            wrapper['paramwise_cfg'] = _convert_paramwise(paramwise, student)
    return _add_precision(config, wrapper)


def _convert_paramwise(paramwise: Section, student: Network) -> dict[str, Any]:
    """`paramwise_cfg`, whose `custom_keys` are parts of the names of parameters."""
    converted = paramwise.rest()
    keys = converted.get('custom_keys')
    if not isinstance(keys, dict):
        return converted
    if student.renamed:
        for key in keys.keys() - _LASTING_NAMES:
            paramwise.problem(
                'kept as it is; see whether it is still part of the names of the parameters',
                'custom_keys',
                key,
            )
    if MIT in student.tables:
        for stage in range(4):
            # The last norm of a stage was called norm1 to norm4 and has a number for a name now.
            old = _first_in(f'backbone.norm{stage + 1}.weight', keys)
            new = _first_in(f'backbone.layers.{stage}.2.weight', keys)
            if old is not None and old != new:
                keys = {**keys, f'backbone.layers.{stage}.2.': keys[old]}
    return {**converted, 'custom_keys': keys}


def _first_in(name: str, keys: Iterable[str]) -> str | None:
    """The key that counts for a parameter: of those in its name the longest."""
    inside = [key for key in keys if key in name]
    return max(sorted(inside), key=len, default=None)


def _add_precision(config: Section, wrapper: dict[str, Any]) -> dict[str, Any]:
    """Clipping, accumulation and mixed precision."""
    fp16 = config.take('fp16')
    hook = config.section_or_empty('optimizer_config')
    kind = hook.take('type', 'OptimizerHook')
    if kind in _FP16_HOOKS:
        fp16 = dict(loss_scale=hook.take('loss_scale', 512.0))
    elif kind not in _HOOKS:
        hook.problem(f'{kind} is not known; a plain step is taken', 'type')
    clipping, steps = hook.take('grad_clip'), hook.number('cumulative_iters', 1)
    if clipping:
        wrapper['clip_grad'] = clipping
    if steps != 1:
        wrapper['accumulative_counts'] = steps
    hook.drop('detect_anomalous_params', 'a help in debugging', unless=[False])
    for key in ('coalesce', 'bucket_size_mb', 'distributed'):
        hook.drop(key, 'DDP sees to it')
    hook.close()
    if fp16 is not None:
        scale = fp16.get('loss_scale', 512.0) if isinstance(fp16, dict) else 512.0
        # Today's loss scale is told from the other ways to give one by its being a float.
        scale = float(scale) if isinstance(scale, int) else scale
        wrapper = {**wrapper, 'type': 'AmpOptimWrapper', 'loss_scale': scale}
    return wrapper


def convert_schedulers(config: Section, max_iters: int | None) -> list[dict[str, Any]]:
    """The new `param_scheduler`.

    Args:
        config: The whole old config.
        max_iters: How long the training is; None: not known.
    """
    if config.take('momentum_config'):
        config.problem('a schedule of the momentum is not converted', 'momentum_config')
    rate = config.section('lr_config')
    if rate is None:
        config.note('without lr_config the learning rate stays as it is')
        return []
    policy = str(rate.take('policy')).lower().removesuffix('lrupdaterhook')
    by_epoch = rate.take('by_epoch', True)
    if by_epoch and policy != 'fixed':
        rate.problem('counted epochs; iterations are counted now', 'by_epoch')
    schedulers = _convert_warmup(rate)
    convert = _POLICIES.get(policy)
    if convert is None:
        rate.problem(f'there is no policy {policy!r} here; left out', 'policy')
        rate.rest()
    else:
        made = convert(rate, max_iters) or {}
        if schedulers and (made.get('eta_min') or made.get('eta_min_ratio')):
            rate.note(
                'not exact where there is a least rate too: mmengine adds its share to what the '
                'warm-up multiplies, and the rate is a little higher than it was',
                'warmup',
            )
        schedulers += [made] if made else []
    rate.close()
    return schedulers


def _convert_warmup(rate: Section) -> list[dict[str, Any]]:
    kind, ratio = rate.take('warmup'), rate.number('warmup_ratio', 0.1)
    end = rate.number('warmup_iters', 0)
    if rate.take('warmup_by_epoch', False):
        rate.problem('a warm-up over epochs is left out', 'warmup_by_epoch')
        return []
    if kind is None or not end:
        return []
    # The last of mmengine's iterations, end - 1, has the factor 1; the old warm-up's had not.
    span = dict(by_epoch=False, begin=0, end=end + 1)
    if kind == 'linear':
        return [dict(type='LinearLR', start_factor=ratio, **span)]
    if kind == 'constant':
        return [dict(type='ConstantLR', factor=ratio, **span)]
    rate.problem(f'there is no warm-up {kind!r} here; left out', 'warmup')
    return []


# The old curves ran from the first iteration on, beneath the warm-up, and towards the iteration
# after the last; mmengine's reach their ends in iteration `end` - 1.


def _poly(rate: Section, max_iters: int | None) -> dict[str, Any] | None:
    power, least = rate.number('power', 1.0), rate.number('min_lr', 0.0)
    if max_iters is None:
        return None
    span = dict(by_epoch=False, begin=0, end=max_iters + 1)
    return dict(type='PolyLR', eta_min=least, power=power, **span)


def _cosine(rate: Section, max_iters: int | None) -> dict[str, Any] | None:
    least, ratio = rate.number('min_lr'), rate.number('min_lr_ratio')
    if max_iters is None:
        return None
    floor = dict(eta_min=least or 0.0) if ratio is None else dict(eta_min_ratio=ratio)
    span = dict(by_epoch=False, begin=0, end=max_iters + 1)
    return dict(type='CosineAnnealingLR', T_max=max_iters, **floor, **span)


def _step(rate: Section, max_iters: int | None) -> dict[str, Any] | None:
    step, gamma = rate.take('step'), rate.number('gamma', 0.1)
    if rate.take('min_lr') is not None:
        rate.problem('a least learning rate of steps is left out', 'min_lr')
    if isinstance(step, list | tuple):
        return dict(type='MultiStepLR', milestones=list(step), gamma=gamma, by_epoch=False)
    return dict(type='StepLR', step_size=step, gamma=gamma, by_epoch=False)


def _fixed(rate: Section, max_iters: int | None) -> None:
    return None


_POLICIES: dict[str, Callable[[Section, int | None], dict[str, Any] | None]] = {
    'poly': _poly,
    'cosineannealing': _cosine,
    'step': _step,
    'fixed': _fixed,
}
