"""Trainings that are killed: at random moments, on one rank of two, and what they resume from."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from builders import same_tensors
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from training_runs import (
    Training,
    free_port,
    ranks_environment,
    tensors,
    train_to_the_end,
    training,
    write_checkpoint,
    write_project,
)

from mmseg_kd.checkpoints.seal import check_whole, saved_at
from mmseg_kd.cli import survival
from mmseg_kd.cli.common import RANKS_TIMEOUT_S, _set_timeout
from mmseg_kd.cli.survival import resume_from_whole, stop_on_signals, use_durable_checkpoints
from mmseg_kd.errors import CheckpointError, ConfigError
from mmseg_kd.hooks import DurableCheckpointHook, StopSignalHook

LONG = """
train_cfg = dict(type='IterBasedTrainLoop', max_iters=60, val_interval=7)
default_hooks['checkpoint'] = dict(
    type='CheckpointHook', by_epoch=False, interval=3, max_keep_ckpts=2, save_best='mIoU')
"""


# The switch in the config.


@pytest.mark.parametrize(
    'hook', [None, dict(type='CheckpointHook', interval=3), dict(type=CheckpointHook)]
)
def test_a_config_gets_durable_checkpoints(hook: dict[str, Any] | None) -> None:
    cfg = Config({} if hook is None else dict(default_hooks=dict(checkpoint=hook)))
    use_durable_checkpoints(cfg)
    assert cfg.default_hooks.checkpoint.type == 'DurableCheckpointHook'
    assert cfg.default_hooks.checkpoint.get('interval') == (hook or {}).get('interval')


def test_other_hooks_stay(tmp_path: Path) -> None:
    other = dict(type='EMAHook')
    cfg = Config(
        dict(
            default_hooks=dict(checkpoint=None, timer=dict(type='IterTimerHook')),
            custom_hooks=[other, dict(type='CheckpointHook', interval=3)],
        )
    )
    use_durable_checkpoints(cfg)
    assert cfg.default_hooks == dict(checkpoint=None, timer=dict(type='IterTimerHook'))
    assert cfg.custom_hooks[0] == other
    assert cfg.custom_hooks[1] == dict(type='DurableCheckpointHook', interval=3)


def test_signals_are_heard_where_a_checkpoint_can_be_written() -> None:
    registered: list[Any] = []
    runner = SimpleNamespace(hooks=[], register_hook=registered.append)
    assert stop_on_signals(runner) is None
    runner.hooks = [DurableCheckpointHook()]
    assert [stop_on_signals(runner)] == registered
    own = StopSignalHook(interval=2)
    runner.hooks.append(own)
    assert stop_on_signals(runner) is own
    assert len(registered) == 1


@pytest.mark.parametrize('seconds', [0, -1, '60', True, float('inf'), float('nan')])
def test_a_wrong_time_limit_of_the_ranks_is_refused(seconds: Any) -> None:
    with pytest.raises(ConfigError, match=r'env_cfg\.dist_cfg\.timeout'):
        _set_timeout(Config(dict(env_cfg=dict(dist_cfg=dict(timeout=seconds)))))


def test_the_time_limit_of_the_ranks_is_set() -> None:
    cfg = Config(dict(env_cfg=dict(dist_cfg=dict(backend='nccl'))))
    assert _set_timeout(cfg).total_seconds() == RANKS_TIMEOUT_S
    # Where mmengine reads it.
    assert cfg.env_cfg.dist_cfg == dict(backend='nccl', timeout=RANKS_TIMEOUT_S)
    assert _set_timeout(Config(dict(env_cfg=dict(dist_cfg=dict(timeout=7))))).total_seconds() == 7


# What a run resumes from.


@pytest.fixture
def runner(tmp_path: Path) -> Any:
    hook = DurableCheckpointHook(by_epoch=False)
    return SimpleNamespace(hooks=[hook], work_dir=str(tmp_path), _resume=True, _load_from=None)


def test_the_newest_whole_one_is_resumed_from(runner: Any, tmp_path: Path) -> None:
    resume_from_whole(runner)
    assert (runner._resume, runner._load_from) == (True, None)
    whole = write_checkpoint(tmp_path / 'iter_2.pth')
    torn = write_checkpoint(tmp_path / 'iter_4.pth')
    torn.write_bytes(torn.read_bytes()[:500])
    resume_from_whole(runner)
    assert runner._load_from == str(whole)


def test_a_file_that_is_named_must_be_whole(runner: Any, tmp_path: Path) -> None:
    whole = write_checkpoint(tmp_path / 'iter_2.pth')
    write_checkpoint(tmp_path / 'iter_4.pth')
    runner._load_from = str(whole)
    resume_from_whole(runner)
    assert runner._load_from == str(whole)
    whole.write_bytes(whole.read_bytes()[:-300])
    with pytest.raises(CheckpointError, match=r'iter_2\.pth: torn'):
        resume_from_whole(runner)


def test_a_run_that_is_not_resumed_is_left_alone(runner: Any, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / 'iter_2.pth')
    runner._resume = False
    resume_from_whole(runner)
    assert (runner._resume, runner._load_from) == (False, None)


def test_checkpoints_in_a_folder_of_their_own(runner: Any, tmp_path: Path) -> None:
    whole = write_checkpoint(tmp_path / 'out' / tmp_path.name / 'iter_2.pth')
    runner.hooks[0].out_dir = str(tmp_path / 'out')
    resume_from_whole(runner)
    assert runner._load_from == str(whole)
    runner.hooks[0].out_dir, runner._load_from = 's3://bucket', None
    resume_from_whole(runner)
    assert runner._load_from is None


def test_a_job_that_is_started_again_resumes_from_its_own_checkpoints_alone(
    runner: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner._resume = False
    old = write_checkpoint(tmp_path / 'iter_900.pth')
    monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', '1')
    resume_from_whole(runner)  # nobody knows when the job began
    monkeypatch.setenv(survival.JOB_START, str(saved_at(old) + 1))
    resume_from_whole(runner)
    assert (runner._resume, runner._load_from) == (False, None)
    own = write_checkpoint(tmp_path / 'iter_20.pth')
    runner._load_from = 'weights_to_begin_with.pth'
    resume_from_whole(runner)
    assert (runner._resume, runner._load_from) == (True, str(own))
    monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', '0')
    runner._resume, runner._load_from = False, None
    resume_from_whole(runner)
    assert (runner._resume, runner._load_from) == (False, None)


# Kills at random moments.


def survive(tmp_path: Path, kills: int, seed: int, **how: Any) -> None:
    """Kill a training at random moments, resume it each time, and compare its end.

    Args:
        kills: How many times.
        seed: Of the moments.
        how: Arguments of `Training`.
    """
    moments = random.Random(seed)
    config = write_project(tmp_path, LONG)
    whole, killed = tmp_path / 'whole', tmp_path / 'killed'
    train_to_the_end([config, '--work-dir', str(whole)], tmp_path / 'whole.log')
    command = [config, '--work-dir', str(killed), '--resume']
    for number in range(kills):
        with training(command, tmp_path / f'{number}.log', **how) as process:
            process.wait_for('Iter(train)', times=moments.randint(1, 4))
            # An iteration takes some 40 ms here, with its checkpoint and validation up to 200.
            time.sleep(moments.uniform(0, 0.2))
            process.kill()
        for path in killed.glob('*.pth'):
            check_whole(path)
    train_to_the_end(command, tmp_path / 'end.log')
    end = 'iter_60.pth'
    assert same_tensors(tensors(killed / end), tensors(whole / end))
    names = [{path.name for path in folder.glob('iter_*')} for folder in (killed, whole)]
    assert names[0] == names[1]


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_like_one_that_was_not(tmp_path: Path) -> None:
    survive(tmp_path, kills=4, seed=0)


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize('seed', [0, 1])
def test_a_real_process_is_killed_at_20_random_moments(tmp_path: Path, seed: int) -> None:
    survive(tmp_path, kills=20, seed=seed, program=(sys.executable, 'tools/train.py'))


# Two ranks.


def rank_of(process: Training, rank: int) -> int:
    """The process of a rank that torchrun started."""
    children = Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text().split()
    [found] = [
        int(child)
        for child in children
        if f'RANK={rank}'.encode() in Path(f'/proc/{child}/environ').read_bytes().split(b'\0')
    ]
    return found


@pytest.mark.slow
def test_two_ranks_stop_on_request_and_survive_the_death_of_one(tmp_path: Path) -> None:
    config = write_project(tmp_path, LONG.replace('max_iters=60', 'max_iters=20'))
    whole, work = tmp_path / 'whole', tmp_path / 'work'
    ranks, port = [], free_port()
    try:
        for rank in range(2):
            environment = ranks_environment(rank, 2, port)
            command = [config, '--launcher', 'pytorch', '--work-dir', str(whole)]
            ranks.append(Training(command, tmp_path / f'{rank}.log', environment))
        assert [one.wait() for one in ranks] == [0, 0], ranks[0].output()
    finally:
        for one in ranks:
            one.kill()

    def started(name: str, *options: str) -> Any:
        """Start the ranks as a user does."""
        program = ('bash', 'tools/dist_train.sh', *options, config, '2', '--work-dir', str(work))
        environment = {'PORT': str(free_port())}
        return training([], tmp_path / name, environment, program=program)

    # A checkpoint of another run, from before.
    write_checkpoint(work / 'iter_900.pth')
    with started('stopped.log') as process:
        process.wait_for('Iter(train)', times=2)
        os.kill(process.pid, signal.SIGUSR1)
        assert process.wait(60) == os.EX_TEMPFAIL, process.output()
        assert 'SIGUSR1: stopping after iteration 5.' in process.output()
    check_whole(work / 'iter_5.pth')

    with started('dead.log') as process:
        process.wait_for('Iter(train)', times=4)
        os.kill(rank_of(process, 1), signal.SIGKILL)
        begun = time.monotonic()
        assert process.wait(60) == 1
        assert time.monotonic() - begun < 60
        assert 'Signal 9 (SIGKILL) received' in process.output()

    with started('again.log', '--max-restarts=1') as process:
        process.wait_for('Iter(train)', times=8)
        os.kill(rank_of(process, 1), signal.SIGKILL)
        assert process.wait() == 0, process.output()
        assert 'resumed epoch: 0, iter: 6' in process.output()
    assert same_tensors(tensors(work / 'iter_20.pth'), tensors(whole / 'iter_20.pth'))
