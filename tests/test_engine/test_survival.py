"""Trainings that are killed: at random moments, on one rank of two, and what they resume from."""

from __future__ import annotations

import os
import random
import re
import signal
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from builders import same_tensors
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from training_runs import (
    Training,
    free_port,
    ranks_environment,
    tensors,
    train_to_the_end,
    training,
    variant,
    write_checkpoint,
    write_project,
)

from mmseg_kd.checkpoints.seal import check_intact, saved_at
from mmseg_kd.cli import launch
from mmseg_kd.engine import survival
from mmseg_kd.engine.survival import resume_from_intact, stop_on_signals, use_durable_checkpoints
from mmseg_kd.errors import CheckpointError
from mmseg_kd.hooks import DurableCheckpointHook, StopSignalHook, stop_signal_hook

LONG = """
train_cfg = dict(type='IterBasedTrainLoop', max_iters=60, val_interval=7)
default_hooks['checkpoint'] = dict(
    type='CheckpointHook', by_epoch=False, interval=3, max_keep_ckpts=2, save_best='mIoU')
"""

SELDOM = """
train_cfg = dict(type='IterBasedTrainLoop', max_iters=20, val_interval=1000)
default_hooks['checkpoint'] = dict(type='CheckpointHook', by_epoch=False, interval=6)
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


# What a run resumes from.


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.delenv(survival.JOB_START, raising=False)
    hook = DurableCheckpointHook(by_epoch=False)
    return SimpleNamespace(hooks=[hook], work_dir=str(tmp_path), _resume=True, _load_from=None)


def test_the_newest_whole_one_is_resumed_from(runner: Any, tmp_path: Path) -> None:
    resume_from_intact(runner)
    assert (runner._resume, runner._load_from) == (True, None)
    whole = write_checkpoint(tmp_path / 'iter_2.pth')
    torn = write_checkpoint(tmp_path / 'iter_4.pth')
    torn.write_bytes(torn.read_bytes()[:500])
    resume_from_intact(runner)
    assert runner._load_from == str(whole)


def test_a_file_that_is_named_must_be_whole(runner: Any, tmp_path: Path) -> None:
    whole = write_checkpoint(tmp_path / 'iter_2.pth')
    write_checkpoint(tmp_path / 'iter_4.pth')
    runner._load_from = str(whole)
    resume_from_intact(runner)
    assert runner._load_from == str(whole)
    whole.write_bytes(whole.read_bytes()[:-300])
    with pytest.raises(CheckpointError, match=r'iter_2\.pth: torn'):
        resume_from_intact(runner)


def test_a_run_that_is_not_resumed_is_left_alone(runner: Any, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / 'iter_2.pth')
    runner._resume = False
    resume_from_intact(runner)
    assert (runner._resume, runner._load_from) == (False, None)


def test_checkpoints_in_a_folder_of_their_own(runner: Any, tmp_path: Path) -> None:
    whole = write_checkpoint(tmp_path / 'out' / tmp_path.name / 'iter_2.pth')
    runner.hooks[0].out_dir = str(tmp_path / 'out')
    resume_from_intact(runner)
    assert runner._load_from == str(whole)
    runner.hooks[0].out_dir, runner._load_from = 's3://bucket', None
    resume_from_intact(runner)
    assert runner._load_from is None


def test_a_job_that_is_started_again_resumes_from_its_own_checkpoints_alone(
    runner: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner._resume = False
    old = write_checkpoint(tmp_path / 'iter_900.pth')
    monkeypatch.delenv(survival.JOB_START, raising=False)
    warnings: list[str] = []
    monkeypatch.setattr(survival, 'print_log', lambda line, **_: warnings.append(line))
    monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', '1')
    resume_from_intact(runner)  # nobody knows when the job began
    assert 'begins as its command says' in warnings[0]
    # The count is that of one machine.
    monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', '0')
    monkeypatch.setenv(survival.JOB_START, str(saved_at(old) + 1))
    resume_from_intact(runner)
    assert (runner._resume, runner._load_from) == (False, None)
    own = write_checkpoint(tmp_path / 'iter_20.pth')
    runner._load_from = 'weights_to_begin_with.pth'
    resume_from_intact(runner)
    assert (runner._resume, runner._load_from) == (True, str(own))


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
            check_intact(path)
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


@pytest.fixture
def no_trace_of_a_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables that it sets go after the test."""
    for name in ('MMSEG_KD_JOB_START', 'MMSEG_KD_STOPPED', 'TORCH_DISABLE_SHARE_RDZV_TCP_STORE'):
        monkeypatch.setenv(name, '')
    monkeypatch.setenv('PET_SIGNALS_TO_HANDLE', 'SIGTERM')


@pytest.mark.usefixtures('no_trace_of_a_launch')
@pytest.mark.parametrize('stopped', [True, False])
@pytest.mark.parametrize(
    'error',
    [
        SignalException('', signal.SIGTERM),
        ChildFailedError('', {0: ProcessFailure(0, 1, 75, 'none')}),
    ],
)
def test_a_job_whose_ranks_stopped_on_request_ends_as_they_do(
    monkeypatch: pytest.MonkeyPatch, error: Exception, stopped: bool
) -> None:
    def run(args: Any) -> None:
        assert abs(time.time_ns() - int(os.environ[survival.JOB_START])) < 60e9
        if stopped:
            Path(os.environ[stop_signal_hook.NOTE]).touch()
        raise error

    monkeypatch.setattr(torchrun, 'main', run)
    if stopped:
        assert launch.torchrun([]) == stop_signal_hook.STOPPED
    else:
        with pytest.raises(type(error)):
            launch.torchrun([])


@pytest.mark.usefixtures('no_trace_of_a_launch')
def test_a_job_that_ends_well_ends_with_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchrun, 'main', lambda args: None)
    assert launch.torchrun([]) == 0


@pytest.mark.slow
def test_the_death_of_a_rank_is_the_end_of_the_others(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path).fork()
    try:
        ranks[0].wait_for('Iter(train)', times=2)
        ranks[1].kill()
        assert ranks[0].wait(60) == 1
        assert 'Connection' in ranks[0].output()
    finally:
        ranks[0].kill()


def rank_of(process: Training, rank: int) -> int:
    """The process of a rank that torchrun started."""
    children = Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text().split()
    [found] = [
        int(child)
        for child in children
        if f'RANK={rank}'.encode() in Path(f'/proc/{child}/environ').read_bytes().split(b'\0')
    ]
    return found


class Ranks:
    """Two ranks that train for 20 iterations, started as a user starts them.

    Args:
        folder: An empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = folder / 'work'
        self.config = write_project(folder, SELDOM)

    def start(self, *options: str) -> AbstractContextManager[Training]:
        """Start them with options of torchrun."""
        script = ('bash', 'tools/dist_train.sh', *options, self.config, '2')
        environment = {'PORT': str(free_port())}
        command = ['--work-dir', str(self.work)]
        return training(command, self.folder / 'log', environment, program=script)

    def fork(self) -> list[Training]:
        """Start them without torchrun, as forks of this process."""
        port = free_port()
        command = [self.config, '--launcher', 'pytorch', '--work-dir', str(self.folder / 'whole')]
        return [
            Training(command, self.folder / f'{rank}.log', ranks_environment(rank, 2, port))
            for rank in range(2)
        ]


@pytest.fixture
def ranks(tmp_path: Path) -> Ranks:
    return Ranks(tmp_path)


@pytest.mark.slow
@pytest.mark.soak
def test_a_signal_to_torchrun_stops_the_ranks_with_a_checkpoint(ranks: Ranks) -> None:
    with ranks.start() as process:
        process.wait_for('Iter(train)', times=2)
        os.kill(process.pid, signal.SIGUSR1)
        assert process.wait(60) == os.EX_TEMPFAIL, process.output()
        assert 'SIGUSR1: stopping after iteration 5.' in process.output()
    check_intact(ranks.work / 'iter_5.pth')


@pytest.mark.slow
@pytest.mark.soak
def test_a_rank_that_hangs_ends_the_others_after_the_time_limit(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path)
    ranks.config = variant(ranks.config, 'short.py', 'env_cfg = dict(dist_cfg=dict(timeout=10))\n')
    forks = ranks.fork()
    try:
        forks[0].wait_for('Iter(train)', times=2)
        os.kill(forks[1].pid, signal.SIGSTOP)
        assert forks[0].wait(60) == 1
        assert re.search(r'[Tt]imed out|[Tt]imeout', forks[0].output()), forks[0].output()
    finally:
        for one in forks:
            one.kill()


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_job_with_the_reason(ranks: Ranks) -> None:
    with ranks.start() as process:
        process.wait_for('Iter(train)', times=4)
        os.kill(rank_of(process, 1), signal.SIGKILL)
        assert process.wait(60) == 1, process.output()
        assert 'Signal 9 (SIGKILL) received' in process.output()


@pytest.mark.slow
def test_ranks_that_torchrun_starts_again_end_as_if_none_had_died(ranks: Ranks) -> None:
    # A checkpoint of another run, from before.
    write_checkpoint(ranks.work / 'iter_900.pth')
    with ranks.start('--max-restarts=1') as process:
        process.wait_for('Iter(train)', times=8)
        os.kill(rank_of(process, 1), signal.SIGKILL)
        assert process.wait() == 0, process.output()
        assert re.search(r'resumed epoch: 0, iter: (6|12)\n', process.output()), process.output()
        if not torch.cuda.is_available():
            assert 'gloo takes the place of NCCL' in process.output()
    forks = ranks.fork()
    try:
        assert [one.wait() for one in forks] == [0, 0], forks[0].output()
    finally:
        for one in forks:
            one.kill()
    expected = tensors(ranks.folder / 'whole' / 'iter_20.pth')
    assert same_tensors(tensors(ranks.work / 'iter_20.pth'), expected)
