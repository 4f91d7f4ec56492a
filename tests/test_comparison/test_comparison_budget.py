"""A schedule at another length."""

from __future__ import annotations

import pytest
from mmengine.config import Config

from mmseg_kd.comparison.budget import stretch
from mmseg_kd.config.recipes import RECIPES
from mmseg_kd.errors import ConfigError


def config() -> Config:
    return Config(
        dict(
            train_cfg=dict(max_iters=1200, val_interval=400, val_begin=200),
            val_cfg=dict(),
            param_scheduler=[
                dict(type='LinearLR', by_epoch=False, begin=0, end=100),
                dict(type='PolyLR', by_epoch=False, begin=100, end=1200),
                dict(type='MultiStepLR', by_epoch=False, milestones=[600, 900]),
                dict(type='ExponentialLR', by_epoch=False, gamma=0.81),
            ],
            default_hooks=dict(checkpoint=dict(interval=400)),
            custom_hooks=[dict(type='EMAHook', begin_iter=300)],
            model=dict(
                distillation=[
                    dict(schedule=dict(type='LinearWarmup', end=200)),
                    dict(
                        schedule=[
                            dict(type='LinearDecay', begin=600, end=1200),
                            dict(
                                type='CountedFromOne', schedule=dict(type='Jump', begin=2, end=400)
                            ),
                        ]
                    ),
                    dict(weight=2.0, schedule=dict(type='Jump', begin=100, end=None)),
                ],
                task_schedule=dict(type='Jump', begin=300),
            ),
        )
    )


def test_all_that_has_its_place_is_stretched() -> None:
    cfg = config()
    stretch(cfg, 2400)
    assert cfg.train_cfg == dict(max_iters=2400, val_interval=800, val_begin=400)
    warm_up, poly, steps, exponential = cfg.param_scheduler
    assert (warm_up.begin, warm_up.end, poly.begin, poly.end) == (0, 200, 200, 2400)
    assert steps.milestones == [1200, 1800]
    assert exponential.gamma == pytest.approx(0.9)
    assert cfg.default_hooks.checkpoint.interval == 800
    assert cfg.custom_hooks[0].begin_iter == 600
    first, second, third = cfg.model.distillation
    assert first.schedule.end == 400
    decay, counted = second.schedule
    assert (decay.begin, decay.end) == (1200, 2400)
    assert (counted.schedule.begin, counted.schedule.end) == (4, 800)
    assert third == dict(weight=2.0, schedule=dict(type='Jump', begin=200, end=None))
    assert cfg.model.task_schedule.begin == 600


def test_the_schedule_of_a_recipe_is_stretched_as_one_that_is_written_out() -> None:
    cfg = config()
    cfg.model.distillation = [
        dict(recipe='cgd', weight=5.0),
        dict(recipe='cwd'),
        dict(recipe='cwd', schedule=dict(type='LinearWarmup', end=200)),
    ]
    stretch(cfg, 2400)
    cgd, cwd, warmed_up = cfg.model.distillation
    assert (cgd.loss.type, cgd.weight) == ('CGDLoss', 5.0)
    warm_up, decay = cgd.schedule
    assert (warm_up.end, decay.begin, decay.end) == (4000, 220000, 240000)
    assert cwd == dict(recipe='cwd')
    assert warmed_up == dict(recipe='cwd', schedule=dict(type='LinearWarmup', end=400))
    again = RECIPES['cgd'].terms[0]['schedule']
    assert again[0]['end'] == 2000  # of the recipe itself


def test_as_many_validations_as_before() -> None:
    cfg = config()
    stretch(cfg, 1000)
    # At 334, 668 and 1000: with 333 there would be one more, just before the end.
    assert cfg.train_cfg.val_interval == 334


@pytest.mark.parametrize(
    ('length', 'interval', 'iterations', 'stretched'),
    [
        (16000, 1600, 1120, 112),
        (4000, 100, 4400, 110),
        (4e4, 4000, 12000, 1200),
    ],
)
def test_what_divides_a_run_still_does(
    length: float, interval: int, iterations: int, stretched: int
) -> None:
    cfg = config()
    cfg.train_cfg.update(max_iters=length, val_interval=interval)
    cfg.default_hooks.checkpoint.interval = interval
    stretch(cfg, iterations)
    assert cfg.train_cfg.val_interval == cfg.default_hooks.checkpoint.interval == stretched


def test_what_was_apart_stays_apart() -> None:
    cfg = config()
    stretch(cfg, 3)
    assert cfg.train_cfg.val_interval == 1
    inner = cfg.model.distillation[1].schedule[1].schedule
    assert (inner.begin, inner.end) == (1, 2)


def test_under_one_validation() -> None:
    cfg = config()
    with pytest.raises(ConfigError, match='budget of 2 iterations is under one validation, of whi'):
        stretch(cfg, 2)
    assert cfg.to_dict() == config().to_dict()
    cfg.val_cfg = None
    stretch(cfg, 2)
    cfg = config()
    # One validation, at the end.
    cfg.train_cfg.val_interval = 10_000
    stretch(cfg, 1)
    # mmengine validates every 1000 iterations where nothing is said.
    cfg = config()
    del cfg.train_cfg.val_interval
    stretch(cfg, 600)
    assert cfg.train_cfg.val_interval == 500


def test_epochs_are_refused() -> None:
    cfg = config()
    cfg.train_cfg = dict(by_epoch=True, max_epochs=3)
    with pytest.raises(ConfigError, match='train_cfg: expected max_iters, as a budget is counted'):
        stretch(cfg, 10)
    for schedulers in ([dict(type='PolyLR')], dict(type='PolyLR'), dict(a=[dict(type='PolyLR')])):
        cfg = config()
        cfg.param_scheduler = schedulers
        with pytest.raises(ConfigError, match='param_scheduler: expected by_epoch=False'):
            stretch(cfg, 10)
