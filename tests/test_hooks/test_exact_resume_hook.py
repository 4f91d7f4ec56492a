"""What is refused, warned of and forgotten; that the rest is exact is in exact_resume.py."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.hooks import CheckpointHook, EarlyStoppingHook, EMAHook
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import nn

from mmseg_kd.errors import CheckpointError, ConfigError
from mmseg_kd.hooks import ExactResumeHook, exact_resume_hook


class RunnerStandIn:
    """What the hook sees of a runner without validation."""

    def __init__(self, *hooks: Any, iteration: int = 0, counts: int = 4) -> None:
        self.cfg = ConfigDict(optim_wrapper=dict(accumulative_counts=counts))
        self.iter = iteration
        self.model = nn.Linear(1, 1)
        self.hooks = self._hooks = list(hooks)
        self.val_loop = None
        self.train_loop = SimpleNamespace(stop_training=False)
        self.optim_wrapper = SimpleNamespace(should_update=lambda: iteration % counts == 0)
        self.message_hub = MessageHub('stand-in')
        self.warnings: list[str] = []
        self.logger = SimpleNamespace(warning=self.warnings.append)
        self.work_dir = 'work'
        self._resume, self._load_from = True, 'here.pth'


def checkpoints(interval: int, by_epoch: bool = False) -> CheckpointHook:
    return CheckpointHook(interval=interval, by_epoch=by_epoch)


def test_several_ranks_write_checkpoints_at_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    off = RunnerStandIn(checkpoints(6))
    ExactResumeHook().before_train(off)
    monkeypatch.setattr(exact_resume_hook, 'get_world_size', lambda: 2)
    with pytest.raises(ConfigError, match=r'accumulative_counts=4, got 6; .* Nearest: 8\.'):
        ExactResumeHook().before_train(off)
    for hook in (checkpoints(8), checkpoints(-1), checkpoints(3, by_epoch=True)):
        ExactResumeHook().before_train(RunnerStandIn(hook))
    ExactResumeHook().before_train(RunnerStandIn(checkpoints(6), counts=1))


def test_lost_gradients_are_told() -> None:
    at_an_update, between = RunnerStandIn(iteration=8), RunnerStandIn(iteration=7)
    for runner in (at_an_update, between):
        ExactResumeHook().before_train(runner)
    assert at_an_update.warnings == []
    assert 'accumulated since the last update are lost' in between.warnings[0]
    with_gradients = RunnerStandIn(iteration=7)
    with_gradients.model.weight.grad = torch.ones(1, 1)
    ExactResumeHook().before_train(with_gradients)
    assert with_gradients.warnings == []


def test_several_optimisers_resume() -> None:
    runner = RunnerStandIn(iteration=7)
    optimizer = torch.optim.SGD(runner.model.parameters(), lr=0.1)
    runner.optim_wrapper = OptimWrapperDict(one=OptimWrapper(optimizer))
    ExactResumeHook().before_train(runner)
    assert runner.warnings == []


def resume(runner: RunnerStandIn, **info: Any) -> dict[str, Any]:
    """Load a checkpoint whose message hub has `info`; returns what is left of that."""
    hub = dict(runtime_info=info, resumed_keys=dict.fromkeys(info, True))
    ExactResumeHook().after_load_checkpoint(runner, dict(message_hub=hub, meta=dict(iter=3)))
    assert hub['resumed_keys'].keys() == info.keys()
    return info


@pytest.mark.parametrize('out_dir', [None, 'kept'])
def test_the_best_checkpoint_of_another_run_is_forgotten(
    tmp_path: Path, out_dir: str | None
) -> None:
    hook = CheckpointHook(out_dir=out_dir and str(tmp_path))
    runner = RunnerStandIn(hook)
    # In another folder checkpoints lie in one of the work dir's name.
    runner.work_dir = str(tmp_path / 'ours') if out_dir is None else 'work_dirs/ours'
    paths = dict(
        best_ckpt_mIoU=str(tmp_path / 'theirs' / 'best_mIoU_iter_3.pth'),
        best_ckpt_aAcc=str(tmp_path / 'ours' / 'best_aAcc_iter_3.pth'),
    )
    left = resume(runner, **paths, best_score_mIoU=3.0)
    assert left == {'best_ckpt_aAcc': paths['best_ckpt_aAcc'], 'best_score_mIoU': 3.0}


def test_weights_alone_are_not_resumed() -> None:
    runner = RunnerStandIn(EarlyStoppingHook('mIoU'))
    runner._resume = False
    state = dict(early_stopping=[(1.0, 2)], stopped=True, gradients={})
    ExactResumeHook().after_load_checkpoint(runner, dict(exact_resume=state))
    assert runner.hooks[0].wait_count == 0
    assert not runner.train_loop.stop_training


def test_weights_alone_are_nothing_to_resume() -> None:
    runner = RunnerStandIn()
    runner._load_from = 'student_best.pth'
    for checkpoint in ({'state_dict': {}}, {'meta': {}, 'message_hub': {}}, {'meta': {'iter': 1}}):
        with pytest.raises(CheckpointError, match=r'student_best\.pth: expected .* weights alone'):
            ExactResumeHook().after_load_checkpoint(runner, checkpoint)


def test_checkpoints_that_nobody_resumes_from_stay_small() -> None:
    best: dict[str, Any] = {'state_dict': {}}
    ExactResumeHook().before_save_checkpoint(RunnerStandIn(), best)
    assert best == {'state_dict': {}}


def test_early_stopping_comes_before_checkpoints() -> None:
    stopping, saving, averaging = EarlyStoppingHook('mIoU'), checkpoints(1), EMAHook()
    own = ExactResumeHook()
    runner = RunnerStandIn(averaging, own, saving, stopping)
    own.before_run(runner)
    assert runner._hooks == [averaging, own, stopping, saving]
