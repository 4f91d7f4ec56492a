"""Trainings in processes of their own, to be killed, stopped and resumed by tests.

They are forks of the test's process, which has imported all that they need: a start takes a tenth
of what a new Python takes.
"""

from __future__ import annotations

import gc
import io
import os
import random
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import matplotlib.backends.backend_agg
import matplotlib.figure  # noqa: F401  imported here, and not in each process
import numpy as np
import torch
from builders import ROOT, resnet, save_weights, term, wrapper_config, write_config, write_dataset
from mmengine.logging import MessageHub, MMLogger
from mmengine.visualization import Visualizer
from mmseg.visualization import SegLocalVisualizer
from torch.multiprocessing import start_processes

from mmseg_kd.checkpoints.seal import seal
from mmseg_kd.cli import train

WAIT_S = 120

# Iterations with all that a killed run could lose: momentum, dropout, flips, a schedule; saved,
# validated and cleared away often.
OFTEN = """
optim_wrapper['optimizer'] = dict(type='SGD', lr=0.01, momentum=0.9)
param_scheduler = [dict(type='PolyLR', by_epoch=False, end=1000)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=8, val_interval=4)
default_hooks['checkpoint'] = dict(
    type='CheckpointHook', by_epoch=False, interval=2, max_keep_ckpts=1, save_best='mIoU')
"""


def write_project(folder: Path, extra: str = '') -> str:
    """Write a data set, a teacher and a config that trains for 8 iterations; returns its path."""
    data = write_dataset(folder / 'data')
    teacher = resnet(8)
    checkpoint = save_weights(teacher, folder / 'teacher.pth')
    model = wrapper_config(resnet(4), teacher, checkpoint, term())
    path = write_config(folder, model, data)
    path.write_text(path.read_text(encoding='utf-8') + OFTEN + extra, encoding='utf-8')
    return str(path)


def variant(config: str, name: str, extra: str) -> str:
    """Write the same config with more lines; returns its path."""
    path = Path(config).with_name(name)
    path.write_text(Path(config).read_text(encoding='utf-8') + extra, encoding='utf-8')
    return str(path)


class Training:
    """A training in a process of its own.

    Args:
        command: Arguments of `mmseg-kd train`.
        log: Where its output goes.
        environment: More variables.
        prepare: Called in the process before the training, to put traps into it.
        program: Run this instead, in a new Python or shell.
        main: Or this, with the command as its arguments.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        prepare: Callable[[], Any] = lambda: None,
        program: Sequence[str] = (),
        main: Callable[[list[str]], int] = train.main,
    ) -> None:
        self.log = log
        self.main = main
        log.touch()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._train([*program, *command], environment or {}, prepare, bool(program))

    def _train(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        prepare: Callable[[], Any],
        execute: bool,
    ) -> None:
        code: Any = 1
        try:
            os.setsid()
            with self.log.open('ab') as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            # In a fork of a fork, what they were before would close them when it goes.
            sys.stdout = os.fdopen(1, 'w', buffering=1, closefd=False)
            sys.stderr = os.fdopen(2, 'w', buffering=1, closefd=False)
            os.environ.update(environment)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
                signal.signal(number, signal.SIG_DFL)
            if execute:
                os.chdir(ROOT)
                # The package beside these tests, whichever is installed.
                path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get('PYTHONPATH'))))
                tools = {'PYTHON': sys.executable, 'PYTHONPATH': path, 'OMP_NUM_THREADS': '1'}
                os.environ.update(tools)
                os.execvp(command[0], list(command))
            for shared in (MessageHub, MMLogger, Visualizer, SegLocalVisualizer):
                shared._instance_dict.clear()  # of trainings in the test's process
            torch.set_num_threads(1)
            gc.freeze()  # collections take most of the time, over what the test's process has
            prepare()
            code = self.main(list(command))
        except SystemExit as stopped:
            code = stopped.code
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def wait(self, seconds: float = WAIT_S) -> int:
        """The exit code, or minus the number of the signal it died of."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        self.kill()
        raise AssertionError(f'{seconds} s are over:\n{self.output()}')

    def kill(self) -> None:
        """End it, if it has not ended, with its workers."""
        if self.pid:
            for end in (os.kill, os.killpg):
                with suppress(ProcessLookupError):
                    end(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0

    def output(self) -> str:
        return self.log.read_text(encoding='utf-8', errors='replace')

    def wait_for(self, text: str, times: int = 1, seconds: float = WAIT_S) -> None:
        """Wait until `text` is in its output so many times."""
        deadline = time.monotonic() + seconds
        while self.output().count(text) < times:
            assert time.monotonic() < deadline, self.output()
            pid, _ = os.waitpid(self.pid, os.WNOHANG)
            assert pid == 0, f'it has ended:\n{self.output()}'
            time.sleep(0.005)


@contextmanager
def training(*args: Any, **kwargs: Any) -> Iterator[Training]:
    """A `Training` that does not outlive the test."""
    process = Training(*args, **kwargs)
    try:
        yield process
    finally:
        process.kill()


def train_to_the_end(command: Sequence[str], log: Path, **kwargs: Any) -> str:
    """Train in a process of its own; returns the output."""
    with training(command, log, **kwargs) as process:
        assert process.wait() == 0, process.output()
        return process.output()


def ranks_environment(rank: int, ranks: int, port: int) -> dict[str, str]:
    """What torchrun tells a rank on one machine."""
    numbers = {'RANK': rank, 'LOCAL_RANK': rank, 'WORLD_SIZE': ranks, 'LOCAL_WORLD_SIZE': ranks}
    return {k: str(v) for k, v in numbers.items()} | {
        'MASTER_ADDR': '127.0.0.1',
        'MASTER_PORT': str(port),
    }


@contextmanager
def forked_ranks(
    function: Callable[..., None], *args: Any, ranks: int = 2, seconds: float = WAIT_S
) -> Iterator[None]:
    """Call `function(rank, *args)` in as many forks, beside what the context does.

    At its end all of them have to have ended well.
    """
    forks = start_processes(
        _seeded_apart, (function, *args), ranks, join=False, start_method='fork'
    )
    try:
        yield
        deadline = time.monotonic() + seconds
        while not forks.join(timeout=1):
            assert time.monotonic() < deadline, 'the ranks hang'
    finally:
        for process in forks.processes:
            process.kill()


def _seeded_apart(rank: int, function: Callable[..., None], *args: Any) -> None:
    # New processes would draw other numbers: what ranks share must not depend on these.
    random.seed(rank)
    np.random.seed(rank)
    function(rank, *args)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return int(probe.getsockname()[1])


def write_checkpoint(path: Path, sealed: bool = True) -> Path:
    """Write a checkpoint of one tensor, with a seal or as mmengine does."""
    content = io.BytesIO()
    torch.save(dict(state_dict=dict(w=torch.arange(9.0))), content)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b''.join(seal(content.getvalue())) if sealed else content.getvalue())
    return path


def tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint, weights, optimiser and averages, by their place in it."""
    found: dict[str, torch.Tensor] = {}

    def collect(value: Any, name: str) -> None:
        if isinstance(value, torch.Tensor):
            found[name] = value
        elif isinstance(value, Mapping):
            for key, one in value.items():
                collect(one, f'{name}.{key}')

    content = torch.load(checkpoint, weights_only=False)
    for key in ('state_dict', 'optimizer', 'ema_state_dict'):
        collect(content.get(key, {}), key)
    assert found
    return found
