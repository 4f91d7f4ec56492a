"""Loops, hooks, logs and the surroundings of a run."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from mmseg_kd.config.text import Name
from mmseg_kd.migration.section import Section

# Keys of the old world that mean nothing today, and why.
_MEANINGLESS = {
    'auto_resume': 'mmseg-kd train --resume does it',
    'device': 'it is found out',
    'find_unused_parameters': 'it was for the teacher, which DDP does not see any more',
    'gpu_ids': 'the launcher says which GPUs there are',
    'gpus': 'the launcher says which GPUs there are',
    'launcher': 'an argument of mmseg-kd train',
    'local_rank': 'an argument of mmseg-kd train',
    'mp_start_method': 'env_cfg says it',
    'opencv_num_threads': 'env_cfg says it',
    'auto_scale_lr': 'the learning rate is as the config says',
    'resume': 'an argument of mmseg-kd train',
}

_METRICS = ('mIoU', 'mDice', 'mFscore')

# Log hooks, and the visualiser's backends that do the same.
_BACKENDS = {
    'TensorboardLoggerHook': 'TensorboardVisBackend',
    'WandbLoggerHook': 'WandbVisBackend',
    'MlflowLoggerHook': 'MLflowVisBackend',
}


def drop_meaningless(config: Section) -> None:
    """Note and drop what the old world needed at the top of a config."""
    for key, reason in _MEANINGLESS.items():
        config.drop(key, reason, unless=[None])
    if config.take('workflow', [('train', 1)]) not in ([('train', 1)], [['train', 1]]):
        config.problem(
            'only training and, every val_interval iterations, measuring is done', 'workflow'
        )
    for key in ('custom_hooks', 'custom_imports'):
        if config.take(key):
            config.problem(f'{key} of the old world are left out; write them for mmengine', key)


def convert_max_iters(config: Section) -> int | None:
    """How many iterations the training has; None, and reported, where that is not said."""
    max_iters: int | None = config.number('total_iters')
    runner = config.section_or_empty('runner')
    kind = runner.take('type', 'IterBasedRunner')
    max_iters = runner.number('max_iters', max_iters)
    if kind != 'IterBasedRunner':
        runner.problem(f'{kind} is not converted: give the iterations in train_cfg', 'type')
        runner.rest()
    runner.close()
    if max_iters is None:
        config.problem('expected runner=dict(max_iters=...); train_cfg has to be written', 'runner')
    return max_iters


def convert_measuring(config: Section, measures: bool) -> dict[str, Any]:
    """`val_interval`, `save_best` and the evaluators from `evaluation`.

    Args:
        measures: Whether there is data to measure on.
    """
    evaluation = config.section('evaluation')
    if evaluation is None or not measures:
        if measures:
            config.note('without evaluation the network is measured at the end alone')
        return dict(iou_metrics=['mIoU'])
    metric = evaluation.take('metric', 'mIoU')
    metrics = [metric] if isinstance(metric, str) else list(metric)
    for one in set(metrics) - set(_METRICS):
        evaluation.problem(f'there is no metric {one!r} here, only {_METRICS}', 'metric')
    made = dict(
        val_interval=evaluation.number('interval'),
        iou_metrics=[one for one in metrics if one in _METRICS] or ['mIoU'],
    )
    best = evaluation.take('save_best')
    if best:
        made['save_best'] = 'mIoU' if best == 'auto' else best
    for key in ('by_epoch', 'pre_eval', 'efficient_test', 'gpu_collect', 'priority', 'rule'):
        # How the old hook went about it; the figures are the same.
        evaluation.take(key)
    evaluation.close()
    return made


def convert_loops(
    max_iters: int | None, measuring: dict[str, Any], measures: bool
) -> dict[str, Any]:
    """`train_cfg`, and where there is data to measure on `val_cfg`, `test_cfg` and evaluators."""
    loops: dict[str, Any] = {}
    if measures:
        evaluator = dict(type='IoUMetric', iou_metrics=measuring['iou_metrics'])
        loops |= dict(val_evaluator=evaluator, test_evaluator=Name('val_evaluator'))
    if max_iters is not None:
        interval = measuring.get('val_interval') or max_iters
        train = dict(type='IterBasedTrainLoop', max_iters=max_iters)
        loops['train_cfg'] = {**train, 'val_interval': interval} if measures else train
    if measures:
        loops |= dict(val_cfg=dict(type='ValLoop'), test_cfg=dict(type='TestLoop'))
    return loops


def convert_hooks(config: Section, save_best: str | None) -> dict[str, Any]:
    """`default_hooks` and the visualiser."""
    log = config.section_or_empty('log_config')
    interval, backends = log.number('interval', 50), [dict(type='LocalVisBackend')]
    for hook in log.sections('hooks'):
        backends += _backend(hook)
    log.close()
    if not any(one['type'] == 'TensorboardVisBackend' for one in backends):
        backends.append(dict(type='TensorboardVisBackend'))
    checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=1000)
    saving = config.section('checkpoint_config')
    if saving is not None:
        if saving.take('by_epoch', True):
            saving.problem('counted epochs; iterations are counted now', 'by_epoch')
        checkpoint['interval'] = saving.number('interval', 1000)
        for key in ('max_keep_ckpts', 'save_optimizer', 'save_last', 'out_dir'):
            if key in saving:
                checkpoint[key] = saving.take(key)
        saving.drop('meta', 'the checkpoint has the whole config')
        saving.drop('create_symlink', 'a file last_checkpoint names the newest')
        saving.close()
    if save_best is not None:
        checkpoint['save_best'] = save_best
    hooks = dict(
        timer=dict(type='IterTimerHook'),
        logger=dict(type='LoggerHook', interval=interval, log_metric_by_epoch=False),
        param_scheduler=dict(type='ParamSchedulerHook'),
        checkpoint=checkpoint,
        sampler_seed=dict(type='DistSamplerSeedHook'),
        visualization=dict(type='SegVisualizationHook'),
    )
    visualizer = dict(type='SegLocalVisualizer', vis_backends=backends, name='visualizer')
    return dict(default_hooks=hooks, visualizer=visualizer)


def _drop_resuming(config: Section) -> None:
    """Leave `resume_from` out; it is listed unless it is a checkpoint of the training itself.

    Such a one need not be there: the old training began at the start without it.
    """
    file, work_dir = config.take('resume_from'), config.peek('work_dir')
    if file is None:
        return
    if work_dir and PurePosixPath(work_dir) in PurePosixPath(file).parents:
        config.note(
            'dropped: the training starts anew; with --resume the new one is gone on with',
            'resume_from',
        )
    else:
        config.problem(
            'a training of SegDistill cannot be gone on with; it starts anew', 'resume_from'
        )


def _backend(hook: Section) -> list[dict[str, Any]]:
    kind = hook.take('type')
    for key in ('by_epoch', 'interval', 'ignore_last', 'reset_flag'):
        hook.take(key)
    if kind == 'TextLoggerHook':
        hook.rest()
        return []
    backend = _BACKENDS.get(kind)
    if backend is None:
        hook.problem(f'there is no {kind} here; left out', 'type')
        hook.rest()
        return []
    made = dict(type=backend)
    if 'init_kwargs' in hook:
        made['init_kwargs'] = hook.take('init_kwargs')
    hook.drop('log_dir', 'logs go below work_dir')
    hook.close()
    return [made]


def convert_surroundings(config: Section) -> dict[str, Any]:
    """`env_cfg`, log level, seed and the like."""
    distributed = config.section_or_empty('dist_params')
    backend = distributed.take('backend', 'nccl')
    distributed.drop('port', 'PORT says it, for mmseg-kd launch')
    distributed.close()
    made: dict[str, Any] = dict(
        env_cfg=dict(
            cudnn_benchmark=bool(config.take('cudnn_benchmark', False)),
            mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
            dist_cfg=dict(backend=backend),
        ),
        log_processor=dict(by_epoch=False),
        log_level=config.take('log_level', 'INFO'),
        load_from=None,
        resume=False,
    )
    _drop_resuming(config)
    seed, exact = config.take('seed'), config.take('deterministic', False)
    if seed is not None or exact:
        made['randomness'] = dict(seed=seed, deterministic=bool(exact))
    work_dir = config.take('work_dir')
    if work_dir is not None:
        made['work_dir'] = work_dir
    return made
