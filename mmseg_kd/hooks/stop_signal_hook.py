"""A run that is told to stop writes a checkpoint first."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from mmengine.dist import all_reduce, barrier, get_world_size, is_main_process
from mmengine.hooks import EMAHook, Hook
from mmengine.optim import OptimWrapperDict
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmseg_kd.checks import is_integer
from mmseg_kd.errors import ConfigError
from mmseg_kd.hooks.durable_checkpoint_hook import DurableCheckpointHook
from mmseg_kd.hooks.find import find_hooks
from mmseg_kd.host.ranks import exit_all_ranks

# A run that stopped on request ends with this code, 75: 'try again later', which neither an error
# (1) nor the death by a signal (128 + its number) can be taken for.
STOPPED = os.EX_TEMPFAIL

# Where mmseg-kd launch looks for whether its ranks stopped on request: torchrun ends with 1.
NOTE = 'MMSEG_KD_STOPPED'

# Nobody hears these.
_DEADLY = ('SIGKILL', 'SIGSTOP')


class Stopped(SystemExit):
    """The end of a run that was told to stop, with `STOPPED` as exit code.

    Attributes:
        signal: The number of the signal.
        checkpoint: The path of the checkpoint to go on from.
    """

    def __init__(self, number: int, checkpoint: str) -> None:
        super().__init__(STOPPED)
        self.signal = number
        self.checkpoint = checkpoint


@HOOKS.register_module()
class StopSignalHook(Hook):
    """On a signal, finishes the iteration, writes a checkpoint, and ends the process with 75.

    The signals are Ctrl-C, SIGTERM, and SIGUSR1 as a scheduler sends it before it takes the
    machine away (`sbatch --signal=USR1@120`). Ctrl-C in a run that is stopping ends it at once.

    One process stops after the iteration or validation batch it is in. Several ranks must stop
    after the same iteration, or one waits for the others for ever: every `interval` iterations
    and after each validation they take the maximum of what they were told, so that it does not
    matter which of them got the signal, or when; where gradients are accumulated they go on to the
    next update. A validation of several ranks is not broken off: rank 0 writes its checkpoint at
    once, and the run ends after it.

    `mmseg-kd train` adds this hook to every run that has a `DurableCheckpointHook`.

    Args:
        signals: Their names.
        interval: Iterations from one agreement of the ranks to the next, >= 1.

    Raises:
        ConfigError: A signal that does not exist, or an `interval` out of its range.
    """

    # After all that an iteration ends with, the checkpoint hook included.
    priority = 'LOWEST'

    def __init__(
        self, signals: Sequence[str] = ('SIGINT', 'SIGTERM', 'SIGUSR1'), interval: int = 5
    ) -> None:
        known = signal.Signals.__members__
        wrong = [name for name in signals if name not in known or name in _DEADLY]
        if wrong:
            raise ConfigError(
                f'StopSignalHook: expected signals such as SIGTERM and SIGUSR1, got {wrong}.'
            )
        if not (is_integer(interval) and interval >= 1):
            raise ConfigError(
                f'StopSignalHook: interval must be a whole number >= 1, got {interval!r}.'
            )
        self.signals = [known[name] for name in signals]
        self.interval = interval
        # Numbers of signals: the last that came, and one that all ranks know of.
        self.received = self._agreed = 0
        self._before: dict[int, Any] = {}
        self._training = False
        # Whether the process is the run's alone, to be ended at once by a second Ctrl-C. In any
        # other that does what it did before the run.
        self.owns_process = True

    def before_train(self, runner: Runner) -> None:
        """Listen from now on.

        Raises:
            ConfigError: No `DurableCheckpointHook` is there to write the checkpoint.
        """
        if not find_hooks(runner, DurableCheckpointHook):
            raise ConfigError(
                'StopSignalHook: expected a DurableCheckpointHook that writes the checkpoint; set '
                'default_hooks.checkpoint, or take StopSignalHook out of custom_hooks.'
            )
        loaders = [runner.train_dataloader]
        if runner.val_loop is not None:
            loaders.append(runner.val_dataloader)
        for loader in loaders:
            loader.worker_init_fn = partial(_detach_worker, loader.worker_init_fn)
        self._training = True
        if note := os.environ.get(NOTE):
            Path(note).unlink(missing_ok=True)  # of ranks that torchrun has started again
        for number in self.signals:
            # What a shell ignores for its background jobs stays ignored.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._on_signal) or signal.SIG_DFL

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        # torchrun passes a second Ctrl-C on as SIGTERM.
        deadly = {signal.SIGINT, signal.SIGTERM} if number == signal.SIGINT else {signal.SIGINT}
        for one in deadly & self._before.keys():
            signal.signal(one, signal.SIG_DFL if self.owns_process else self._before[one])

    def restore(self) -> None:
        """Give the signals their meaning back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def after_run(self, runner: Runner) -> None:
        """Listen no more."""
        self._training = False
        self.restore()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Stop here if this rank, or with several ranks any of them, was told to."""
        if get_world_size() == 1 or self.every_n_train_iters(runner, self.interval):
            self._agree()
        self._stop_if_agreed(runner, runner.iter + 1)

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Write the checkpoint now: the rest of a validation may take too long."""
        if not self.received or not is_main_process() or _loses_gradients(runner):
            return
        # The averaged weights are in the model's place during a validation.
        averaging = find_hooks(runner, EMAHook)
        for hook in averaging:
            hook.after_val_epoch(runner)
        if get_world_size() == 1:
            self._agree()
            self._stop_if_agreed(runner, runner.iter)
        _saver(runner).save_now(runner, runner.iter)
        for hook in averaging:
            hook.before_val_epoch(runner)

    def after_val(self, runner: Runner) -> None:
        """Stop here, as after an iteration."""
        if self._training:
            self._agree()
            self._stop_if_agreed(runner, runner.iter)

    def _agree(self) -> None:
        """Learn what any of the ranks was told."""
        told = torch.tensor(self.received)
        all_reduce(told, op='max')
        self._agreed = int(told)

    def _stop_if_agreed(self, runner: Runner, iterations: int) -> None:
        if not self._agreed or _loses_gradients(runner):
            return
        name = signal.Signals(self._agreed).name
        runner.logger.warning(f'{name}: stopping after iteration {iterations}.')
        path = _saver(runner).save_now(runner, iterations)
        barrier()  # none leaves before rank 0 has written: torchrun would end them all
        runner.logger.warning(f'Stopped. Go on from {path} with --resume.')
        # Told again, it is ending already; Ctrl-C still ends it at once.
        for number in self._before.keys() - {signal.SIGINT}:
            signal.signal(number, signal.SIG_IGN)
        self._before.clear()
        runner.call_hook('after_run')
        if note := os.environ.get(NOTE):
            Path(note).touch()
        exit_all_ranks(STOPPED)
        raise Stopped(self._agreed, path)


def _saver(runner: Runner) -> DurableCheckpointHook:
    return find_hooks(runner, DurableCheckpointHook)[0]


def _loses_gradients(runner: Runner) -> bool:
    """Whether a checkpoint would lack the other ranks' gradients, accumulated for an update."""
    wrapper = runner.optim_wrapper
    if get_world_size() == 1 or isinstance(wrapper, OptimWrapperDict):
        return False
    return not wrapper.should_update()


def _detach_worker(own: Callable[[int], None] | None, worker: int) -> None:
    """What a data loader's worker begins with.

    A terminal and torchrun send a signal to a whole process group. A worker that died of it would
    end the run with an error, so it has a group of its own. When the run is gone it goes too.
    """
    os.setpgrp()
    if own is not None:
        own(worker)
