"""Runs that are told to stop: the checkpoint they leave, the code they end with, the resume."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from builders import same_tensors
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS
from training_runs import (
    Training,
    free_port,
    ranks_environment,
    tensors,
    train_to_the_end,
    training,
    variant,
    write_project,
)

from mmseg_kd.errors import ConfigError
from mmseg_kd.hooks import DurableCheckpointHook, StopSignalHook, stop_signal_hook
from mmseg_kd.hooks.stop_signal_hook import STOPPED

# A checkpoint at the end alone, and none for the best.
PLAIN = """
default_hooks['checkpoint'] = dict(type='CheckpointHook', by_epoch=False, interval=100)
"""


@HOOKS.register_module()
class SignalAt(Hook):
    """Sends signals to its own process, or group, in an iteration or validation.

    Args:
        place: 'train' or 'val'.
        index: The number of the iteration, or of the batch of the first validation, from 0.
        names: The signals.
        group: Whether the workers get them too, as from a terminal.
    """

    priority = 'VERY_HIGH'

    def __init__(self, place: str, index: int, names: list[str], group: bool = False) -> None:
        self.place, self.index, self.names, self.group = place, index, names, group

    def _send(self) -> None:
        run = os.getpid()
        if not self.group:
            for name in self.names:
                os.kill(run, signal.Signals[name])
            return
        # From somebody else: workers take what comes from their run for the end of it.
        sender = os.fork()
        if sender == 0:
            os.setsid()
            for name in self.names:
                os.killpg(run, signal.Signals[name])
            os._exit(0)
        os.waitpid(sender, 0)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if (self.place, self.index) == ('train', runner.iter):
            self._send()

    def before_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if (self.place, self.index) == ('val', batch_idx):
            self._send()


def with_signal(**arguments: Any) -> str:
    """A line of a config."""
    return f'custom_hooks = [dict(type="SignalAt", **{arguments!r})]\n'


def test_a_stopped_run_is_resumed_as_if_it_had_not_been(tmp_path: Path) -> None:
    config = write_project(tmp_path, PLAIN)
    signals = with_signal(place='train', index=2, names=['SIGTERM'], group=True)
    told = variant(config, 'told.py', signals)
    whole, stopped = tmp_path / 'whole', tmp_path / 'stopped'
    train_to_the_end([config, '--work-dir', str(whole)], tmp_path / 'log')
    command = ['--work-dir', str(stopped), '--cfg-options', 'train_dataloader.num_workers=2']
    with training([told, *command], tmp_path / 'stopped.log') as process:
        assert process.wait() == STOPPED == 75, process.output()
        assert 'SIGTERM: stopping after iteration 3.' in process.output()
        assert f'Go on from {stopped / "iter_3.pth"} with --resume' in process.output()
        # The workers heard it too and went on.
        assert 'killed by signal' not in process.output()
    output = train_to_the_end([config, '--resume', *command], tmp_path / 'resumed.log')
    assert 'resumed epoch: 0, iter: 3' in output
    assert same_tensors(tensors(stopped / 'iter_8.pth'), tensors(whole / 'iter_8.pth'))


@pytest.mark.parametrize('name', ['SIGINT', 'SIGUSR1'])
def test_a_validation_is_broken_off_with_the_weights_that_are_trained(
    tmp_path: Path, name: str
) -> None:
    ema = "dict(type='EMAHook', momentum=0.5)"
    config = write_project(tmp_path, PLAIN + f'custom_hooks = [{ema}]\n')
    signals = dict(type='SignalAt', place='val', index=1, names=[name])
    told = variant(config, 'told.py', f'custom_hooks.append({signals!r})\n')
    log = tmp_path / 'log'
    with training([told, '--work-dir', str(tmp_path / 'stopped')], log) as process:
        assert process.wait() == STOPPED, process.output()
        assert f'{name}: stopping after iteration 4.' in process.output()
    options = ('--cfg-options', 'train_cfg.max_iters=4')
    train_to_the_end([config, '--work-dir', str(tmp_path / 'whole'), *options], log)
    found, expected = (tensors(tmp_path / run / 'iter_4.pth') for run in ('stopped', 'whole'))
    assert any(key.startswith('ema_state_dict') for key in found)
    assert same_tensors(found, expected)


@pytest.mark.parametrize('names', [['SIGTERM', 'SIGUSR1', 'SIGINT'], ['SIGINT', 'SIGTERM']])
def test_a_second_ctrl_c_ends_the_process_at_once(tmp_path: Path, names: list[str]) -> None:
    config = write_project(tmp_path, PLAIN + with_signal(place='train', index=1, names=names))
    with training([config], tmp_path / 'log') as process:
        assert process.wait() == -signal.Signals[names[-1]], process.output()
    assert not (tmp_path / 'work' / 'iter_2.pth').exists()


def test_a_run_by_epochs_stops_within_one(tmp_path: Path) -> None:
    by_epochs = """
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=2, val_interval=1)
train_dataloader['sampler'] = dict(type='DefaultSampler', shuffle=True)
param_scheduler = []
default_hooks['checkpoint'] = dict(type='CheckpointHook', interval=1, max_keep_ckpts=1)
"""
    config = write_project(tmp_path, by_epochs)
    told = variant(config, 'told.py', with_signal(place='train', index=2, names=['SIGTERM']))
    work = tmp_path / 'work'
    with training([told], tmp_path / 'told.log') as process:
        assert process.wait() == STOPPED, process.output()
    assert [path.name for path in work.glob('epoch*.pth')] == ['epoch_1_iter_3.pth']
    output = train_to_the_end([config, '--resume'], tmp_path / 'resumed.log')
    assert 'resumed epoch: 1, iter: 3' in output
    assert [path.name for path in work.glob('epoch*.pth')] == ['epoch_2.pth']


@pytest.mark.slow
@pytest.mark.parametrize(('rank', 'place', 'index', 'last'), [(1, 'train', 1, 3), (0, 'val', 0, 4)])
def test_ranks_of_which_one_is_told_stop_after_the_same_iteration(
    tmp_path: Path, rank: int, place: str, index: int, last: int
) -> None:
    stop = "custom_hooks = [dict(type='StopSignalHook', interval=3)]\n"
    config = write_project(tmp_path, PLAIN + stop)
    signals = dict(type='SignalAt', place=place, index=index, names=['SIGTERM'])
    told = variant(config, 'told.py', f'custom_hooks.append({signals!r})\n')
    port, ranks = free_port(), []
    try:
        for number in range(2):
            command = [told if number == rank else config, '--launcher', 'pytorch']
            environment = ranks_environment(number, 2, port)
            ranks.append(Training(command, tmp_path / f'{number}.log', environment))
        codes = [one.wait(60) for one in ranks]
    finally:
        for one in ranks:
            one.kill()
    assert codes == [STOPPED, STOPPED], ranks[0].output() + ranks[1].output()
    for one in ranks:
        found = re.findall(r'SIGTERM: stopping after iteration (\d+)', one.output())
        # Only rank 0 has a log of warnings and less.
        assert found in ([str(last)], [])
    assert (tmp_path / 'work' / f'iter_{last}.pth').exists()


def test_rank_0_of_several_writes_its_checkpoint_within_a_validation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stop_signal_hook, 'get_world_size', lambda: 2)
    calls: list[Any] = []

    class Averaging(EMAHook):
        def _swap_ema_parameters(self) -> None:
            calls.append('swap')

    class Saving(DurableCheckpointHook):
        def save_now(self, runner: Any, iterations: int) -> str:
            calls.append(iterations)
            return ''

    optimiser = SimpleNamespace(should_update=lambda: True)
    runner = SimpleNamespace(hooks=[Saving(), Averaging()], iter=7, optim_wrapper=optimiser)
    hook = StopSignalHook()
    hook.after_val_iter(runner, 0)
    assert calls == []
    hook.received = signal.SIGTERM
    hook.after_val_iter(runner, 0)
    assert calls == ['swap', 7, 'swap']
    # Between updates the other ranks' gradients would be missing.
    optimiser.should_update = lambda: False
    hook.after_val_iter(runner, 0)
    assert len(calls) == 3
    hook._agreed = signal.SIGTERM
    hook._stop_if_agreed(runner, 8)
    assert len(calls) == 3


def test_handlers_are_given_back_and_what_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        loader = SimpleNamespace(worker_init_fn=None)
        saving = [DurableCheckpointHook()]
        runner = SimpleNamespace(train_dataloader=loader, val_loop=None, hooks=saving)
        hook = StopSignalHook()
        hook.before_train(runner)
        assert signal.getsignal(signal.SIGTERM) == hook._on_signal
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
        hook.after_run(runner)
        assert handlers == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_run_that_has_stopped_is_deaf_until_it_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = []
    saver = DurableCheckpointHook()
    monkeypatch.setattr(saver, 'save_now', lambda runner, iterations: 'iter_7.pth')
    before = {number: signal.getsignal(number) for number in StopSignalHook().signals}

    def after_run(name: str) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        heard.append(name)
        hook.after_run(runner)

    runner = SimpleNamespace(
        hooks=[saver],
        train_dataloader=SimpleNamespace(worker_init_fn=None),
        val_loop=None,
        logger=SimpleNamespace(warning=heard.append),
        call_hook=after_run,
        optim_wrapper=None,
        iter=6,
    )
    try:
        hook = StopSignalHook()
        hook.before_train(runner)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(SystemExit, match='75'):
            hook.after_train_iter(runner, 6)
        hook.restore()
        os.kill(os.getpid(), signal.SIGUSR1)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert [line.split()[0] for line in heard] == ['SIGTERM:', 'Stopped.', 'after_run']


def test_without_a_hook_that_saves_it_is_refused() -> None:
    with pytest.raises(ConfigError, match='DurableCheckpointHook'):
        StopSignalHook().before_train(SimpleNamespace(hooks=[]))


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(signals=['SIGTERMINATE']), 'SIGTERMINATE'),
        (dict(signals=['SIGTERM', 'SIGKILL']), 'SIGKILL'),
        (dict(interval=0), 'interval'),
        (dict(interval='5'), 'interval'),
        (dict(interval=2.5), 'interval'),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        StopSignalHook(**arguments)
