"""Loops, hooks and surroundings of the old config."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from mmengine.registry import HOOKS, VISUALIZERS
from old_sections import notes, problems, section

from mmseg_kd.migration.runtime import (
    convert_hooks,
    convert_loops,
    convert_max_iters,
    convert_measuring,
    convert_surroundings,
    drop_meaningless,
)


def test_meaningless_keys_are_named_with_the_reason() -> None:
    one = section(
        dict(
            find_unused_parameters=True,
            gpu_ids=range(2),
            workflow=[('train', 1)],
            custom_hooks=[],
            custom_imports=None,
            device=None,
        )
    )
    drop_meaningless(one)
    one.close()
    assert problems(one) == []
    assert notes(one) == [
        'find_unused_parameters: dropped: it was for the teacher, which DDP does not see any more',
        'gpu_ids: dropped: the launcher says which GPUs there are',
    ]


def test_what_the_old_world_did_besides_is_listed() -> None:
    one = section(
        dict(
            workflow=[('train', 10), ('val', 1)],
            custom_hooks=[dict(type='EMAHook')],
            custom_imports=dict(imports=['mine']),
        )
    )
    drop_meaningless(one)
    one.close()
    assert [line.split(':')[0] for line in problems(one)] == [
        'custom_hooks',
        'custom_imports',
        'workflow',
    ]


@pytest.mark.parametrize(
    ('old', 'iterations', 'listed'),
    [
        (dict(runner=dict(type='IterBasedRunner', max_iters=7)), 7, None),
        (dict(total_iters=7), 7, None),
        (dict(), None, 'runner: expected runner=dict(max_iters=...)'),
        (
            dict(runner=dict(type='EpochBasedRunner', max_epochs=3)),
            None,
            'runner.type: EpochBasedRunner is not converted',
        ),
        (dict(runner=dict(max_iters=7, x=1)), 7, 'runner.x: unknown key'),
    ],
)
def test_iterations(old: dict[str, Any], iterations: int | None, listed: str | None) -> None:
    one = section(old)
    assert convert_max_iters(one) == iterations
    one.close()
    assert bool(problems(one)) == (listed is not None)
    assert any(line.startswith(listed or '') for line in problems(one)) == (listed is not None)


def measuring(**evaluation: Any) -> tuple[dict[str, Any], Any]:
    one = section(dict(evaluation=evaluation))
    made = convert_measuring(one, True)
    one.close()
    return made, one


def test_measuring() -> None:
    made, one = measuring(interval=16000, metric='mIoU', pre_eval=True, by_epoch=False)
    assert made == dict(val_interval=16000, iou_metrics=['mIoU'])
    assert (problems(one), notes(one)) == ([], [])
    made, _ = measuring(interval=10, metric=['mIoU', 'mDice'], save_best='auto')
    assert made == dict(val_interval=10, iou_metrics=['mIoU', 'mDice'], save_best='mIoU')
    made, one = measuring(metric=['cityscapes'], start=3)
    assert made['iou_metrics'] == ['mIoU']
    assert [line.split(':')[0] for line in problems(one)] == [
        'evaluation.metric',
        'evaluation.start',
    ]


def test_loops() -> None:
    made = convert_loops(70, dict(val_interval=10, iou_metrics=['mIoU', 'mDice']), True)
    assert made == dict(
        val_evaluator=dict(type='IoUMetric', iou_metrics=['mIoU', 'mDice']),
        test_evaluator='val_evaluator',
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=70, val_interval=10),
        val_cfg=dict(type='ValLoop'),
        test_cfg=dict(type='TestLoop'),
    )
    made = convert_loops(70, dict(iou_metrics=['mIoU']), False)
    assert made == dict(train_cfg=dict(type='IterBasedTrainLoop', max_iters=70))
    assert 'train_cfg' not in convert_loops(None, dict(iou_metrics=['mIoU']), True)


def test_without_evaluation_the_end_is_measured() -> None:
    one = section({})
    made = convert_measuring(one, True)
    assert len(notes(one)) == 1
    assert convert_loops(70, made, True)['train_cfg']['val_interval'] == 70
    assert notes(section({})) == []


def call(convert: Callable[..., Any], old: dict[str, Any], *args: Any) -> tuple[Any, Any]:
    one = section(old)
    made = convert(one, *args)
    one.close()
    return made, one


def test_hooks() -> None:
    old = dict(
        log_config=dict(
            interval=20,
            hooks=[
                dict(type='TextLoggerHook', by_epoch=False),
                dict(type='TensorboardLoggerHook', by_epoch=False),
                dict(type='WandbLoggerHook', init_kwargs=dict(project='p')),
            ],
        ),
        checkpoint_config=dict(by_epoch=False, interval=4000, max_keep_ckpts=2, meta=dict(a=1)),
    )
    made, one = call(convert_hooks, old, 'mIoU')
    assert problems(one) == []
    assert len(notes(one)) == 1
    hooks = made['default_hooks']
    assert hooks['logger'] == dict(type='LoggerHook', interval=20, log_metric_by_epoch=False)
    assert hooks['checkpoint'] == dict(
        type='CheckpointHook', by_epoch=False, interval=4000, max_keep_ckpts=2, save_best='mIoU'
    )
    assert made['visualizer'] == dict(
        type='SegLocalVisualizer',
        vis_backends=[
            dict(type='LocalVisBackend'),
            dict(type='TensorboardVisBackend'),
            dict(type='WandbVisBackend', init_kwargs=dict(project='p')),
        ],
        name='visualizer',
    )
    VISUALIZERS.build({**made['visualizer'], 'vis_backends': []})
    for hook in hooks.values():
        HOOKS.build(hook)


def test_hooks_of_an_empty_config() -> None:
    made, one = call(convert_hooks, {}, None)
    assert problems(one) == []
    assert made['default_hooks']['checkpoint']['interval'] == 1000
    assert made['visualizer']['vis_backends'][1] == dict(type='TensorboardVisBackend')


def test_hooks_that_are_listed() -> None:
    old = dict(
        log_config=dict(hooks=[dict(type='PaviLoggerHook', x=1)], y=1),
        checkpoint_config=dict(interval=1, z=1),
    )
    _, one = call(convert_hooks, old, None)
    assert problems(one) == [
        'checkpoint_config.by_epoch: counted epochs; iterations are counted now',
        'checkpoint_config.z: unknown key, left out',
        'log_config.hooks[0].type: there is no PaviLoggerHook here; left out',
        'log_config.y: unknown key, left out',
    ]


def test_surroundings() -> None:
    old = dict(
        dist_params=dict(backend='gloo', port=29501),
        cudnn_benchmark=True,
        log_level='DEBUG',
        seed=3,
        deterministic=True,
        work_dir='work',
        resume_from=None,
    )
    made, one = call(convert_surroundings, old)
    assert problems(one) == []
    assert notes(one) == ['dist_params.port: dropped: PORT says it, for mmseg-kd launch']
    assert made == dict(
        env_cfg=dict(
            cudnn_benchmark=True,
            mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
            dist_cfg=dict(backend='gloo'),
        ),
        log_processor=dict(by_epoch=False),
        log_level='DEBUG',
        load_from=None,
        resume=False,
        randomness=dict(seed=3, deterministic=True),
        work_dir='work',
    )


def test_resuming_is_listed() -> None:
    made, one = call(convert_surroundings, dict(resume_from='iter_4000.pth'))
    assert made['load_from'] is None
    (line,) = problems(one)
    assert line.startswith('resume_from: a training of SegDistill cannot be gone on with')


@pytest.mark.parametrize('work_dir', ['work/b3', './work/b3/'])
def test_resuming_the_training_itself_is_told(work_dir: str) -> None:
    old = dict(work_dir=work_dir, resume_from='work/b3/latest.pth')
    made, one = call(convert_surroundings, old)
    assert problems(one) == []
    assert notes(one) == [
        'resume_from: dropped: the training starts anew; with --resume the new one is gone on with'
    ]
    assert made['resume'] is False
