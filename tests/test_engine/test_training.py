"""How a run is put together."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mmengine.config import Config
from training_runs import write_project

from mmseg_kd.config.load import load_config
from mmseg_kd.engine.training import (
    TrainingOptions,
    apply_options,
    log_means_of_terms,
    prepare_training,
)
from mmseg_kd.hooks import (
    BadDataHook,
    ExactResumeHook,
    IterationSeedHook,
    NonFiniteHook,
    RankZeroBuffersHook,
    StopSignalHook,
    StudentCheckpointHook,
)
from mmseg_kd.hooks.find import find_hooks

ADDED = {
    BadDataHook: dict(max_skipped=2),
    ExactResumeHook: dict(),
    IterationSeedHook: dict(priority=49),
    NonFiniteHook: dict(limit=3),
    RankZeroBuffersHook: dict(),
    StopSignalHook: dict(interval=2),
    StudentCheckpointHook: dict(rule='less'),
}


@pytest.mark.parametrize('of_config', [False, True], ids=['new', 'of the config'])
def test_each_hook_is_there_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of_config: bool
) -> None:
    monkeypatch.setattr(Config, 'pretty_text', '')
    own = [dict(type=kind.__name__, **arguments) for kind, arguments in ADDED.items()]
    extra = f'custom_hooks = {own if of_config else []}\n'
    runner = prepare_training(load_config(write_project(tmp_path, extra), None), TrainingOptions())
    for kind, arguments in ADDED.items():
        (hook,) = find_hooks(runner, kind)
        changed = [getattr(hook, name) == value for name, value in arguments.items()]
        assert all(changed) == (of_config or not arguments), kind


def test_terms_are_means_in_the_log_as_losses_are() -> None:
    cfg = Config(dict(log_processor=dict(by_epoch=False)))
    log_means_of_terms(cfg)
    assert cfg.log_processor.by_epoch is False
    pattern = re.compile(cfg.log_processor.mean_pattern)
    for name in ('loss', 'decode.loss_ce', 'kd.cgd', 'grad_norm', 'time'):
        assert pattern.search(name), name
    for name in ('kd_weight.cgd', 'lr', 'decode.acc_seg'):
        assert not pattern.search(name), name
    own = Config(dict(log_processor=dict(mean_pattern='lr')))
    other = Config(dict(log_processor=dict(type='OfTheUser')))
    for cfg in (own, other):
        before = cfg.log_processor.to_dict()
        log_means_of_terms(cfg)
        assert cfg.log_processor.to_dict() == before
    without = Config(dict())
    log_means_of_terms(without)
    assert without.log_processor.mean_pattern


def test_deterministic_ranks_keep_the_order_of_their_sums() -> None:
    open_to_it, decided = Config(dict()), Config(dict(find_unused_parameters=False))
    for cfg in (open_to_it, decided):
        apply_options(cfg, TrainingOptions(deterministic=True))
        assert cfg.randomness == dict(deterministic=True)
    assert open_to_it.find_unused_parameters is True
    assert decided.find_unused_parameters is False


@pytest.mark.parametrize('resume', [False, None])
def test_a_run_that_is_not_resumed_keeps_its_weights_to_begin_with(resume: bool | None) -> None:
    cfg = Config(dict(load_from='weights.pth'))
    apply_options(cfg, TrainingOptions(resume=resume))  # type: ignore[arg-type]
    assert cfg.load_from == 'weights.pth'
    assert 'resume' not in cfg
