"""A live view of a training, on a terminal."""

from __future__ import annotations

import atexit
import logging
import resource
import sys
import time
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from rich.console import Console
from rich.live import Live

from mmseg_kd.checks import is_number
from mmseg_kd.errors import ConfigError
from mmseg_kd.hooks.live_progress import LiveProgress, Stage
from mmseg_kd.host.aside import aside
from mmseg_kd.host.log_names import (
    GRAD_NORM,
    TASK_LOSS,
    TERM_PREFIX,
    TRAIN_PREFIX,
    VAL_PREFIX,
    WEIGHT_PREFIX,
)

# The display takes no more than this part of the time, whatever `interval` says.
LARGEST_SHARE = 0.01
GIB = 2**30


@HOOKS.register_module()
class ProgressHook(Hook):
    """Shows below the log how far a training is, where the output is a terminal.

    Iteration, time left, losses by name, weights of the terms, learning rate, images per second and
    memory stay at the bottom of the terminal; the lines of the log, and whatever else is printed,
    go by above them. A validation has a bar of its own. Where standard output is no terminal, or
    TERM=dumb, nothing changes and no escape codes are written; NO_COLOR takes the colours away. Of
    several ranks rank 0 shows it. `mmseg-kd train` adds the hook to every run; to switch it off
    write `custom_hooks = [dict(type='ProgressHook', enabled=False)]`.

    It costs an iteration a look at the clock. All numbers are those of the next line of the log:
    the runner has them in its message hub as plain numbers in each iteration, so that nothing here
    waits for a GPU. It draws a few times a second at most, in the runner's own thread: with a
    second one a data loader's worker might be forked while that one holds a lock.

    Args:
        enabled: Whether anything is shown.
        interval: Seconds from one drawing to the next, > 0; longer where drawing takes more than
            1 % of the time.

    Raises:
        ConfigError: An argument is out of its range.
    """

    # After the hooks that measure and log an iteration, before the one that may end the run.
    priority = 'VERY_LOW'

    def __init__(self, enabled: bool = True, interval: float = 0.5) -> None:
        if not isinstance(enabled, bool):
            raise ConfigError(f'ProgressHook: expected enabled=True or False, got {enabled!r}.')
        if not (is_number(interval) and interval > 0):
            raise ConfigError(f'ProgressHook: expected interval in seconds > 0, got {interval!r}.')
        self.enabled = enabled
        self.interval = interval
        self._live: Live | None = None
        self._streams: list[tuple[Any, Any]] = []
        self._next = 0.0
        self._seconds_left: float | None = None
        # Batches that are done, and all, of the validation that is under way.
        self._validation: tuple[int, int] | None = None

    def before_train(self, runner: Runner) -> None:
        """Begin, where somebody looks."""
        console = _terminal() if self.enabled and is_main_process() else None
        if console is None:
            return
        self._live = Live(
            console=console,
            auto_refresh=False,
            transient=True,
            redirect_stderr=sys.stderr.isatty(),
        )
        outputs = {id(sys.stdout), id(sys.stderr)}
        handlers = [
            handler
            for handler in runner.logger.handlers
            if isinstance(handler, logging.StreamHandler) and id(handler.stream) in outputs
        ]
        self._live.start()
        # Whoever is killed cannot show the cursor again.
        console.show_cursor(True)
        for handler in handlers:
            # The log holds on to the stream that it was given at its start.
            self._streams.append((handler, handler.setStream(sys.stdout)))
        atexit.register(self.close)
        self._draw(runner, runner.iter)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Show this iteration, if it is time."""
        if self._live is None:
            return
        # Now: a validation puts its own time left in the same place, and draws.
        self._seconds_left = runner.message_hub.runtime_info.get('eta')
        if time.monotonic() >= self._next:
            self._draw(runner, runner.iter + 1)

    def before_val_epoch(self, runner: Runner) -> None:
        """Begin a bar for the validation."""
        if self._live is not None:
            self._validation = (0, len(runner.val_dataloader))
            self._draw(runner, runner.iter)

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Show how far the validation is, if it is time."""
        if self._live is not None and time.monotonic() >= self._next:
            self._validation = (batch_idx + 1, len(runner.val_dataloader))
            self._draw(runner, runner.iter)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Take the validation's bar away."""
        if self._live is not None:
            self._validation = None
            self._draw(runner, runner.iter)

    def after_run(self, runner: Runner) -> None:
        """Leave the terminal with the log alone."""
        self.close()

    def close(self) -> None:
        """Take everything off the terminal, and give the log its stream back."""
        if self._live is None:
            return
        live, self._live = self._live, None
        live.update('')  # it would be drawn once more, as a whole, into a terminal of any height
        live.stop()
        while self._streams:
            handler, stream = self._streams.pop()
            handler.setStream(stream)
        atexit.unregister(self.close)

    def _draw(self, runner: Runner, done: int) -> None:
        with aside('ProgressHook', self.close):
            self._update(runner, done)

    def _update(self, runner: Runner, done: int) -> None:
        assert self._live is not None
        begun = time.monotonic()
        stages = [Stage('train', done, runner.max_iters, self._seconds_left)]
        if self._validation is not None:
            batches, total = self._validation
            left = runner.message_hub.runtime_info.get('eta') if batches else None
            stages.append(Stage('val', batches, total, left))
        self._live.update(LiveProgress(stages, _entries(runner)), refresh=True)
        ended = time.monotonic()
        self._next = ended + max(self.interval, (ended - begun) / LARGEST_SHARE)


def _terminal() -> Console | None:
    """A console on standard output; None where that is no terminal, or one without a cursor."""
    if not sys.stdout.isatty():
        return None
    # Long lines of the log are the terminal's to break: they stay whole where they are copied.
    console = Console(soft_wrap=True)
    return console if console.is_interactive else None


def _entries(runner: Runner) -> list[list[tuple[str, str]]]:
    """Losses, terms with their weights, rates and memory, and the last validation."""
    numbers = _numbers(runner, TRAIN_PREFIX)
    seconds, _ = numbers.pop('time', 0), numbers.pop('data_time', 0)
    # The totals first.
    losses = {key: numbers.pop(key) for key in ('loss', TASK_LOSS) if key in numbers}
    terms = {k: v for k, v in numbers.items() if k.startswith((TERM_PREFIX, WEIGHT_PREFIX))}
    rates = {k: v for k, v in numbers.items() if k.endswith(('lr', GRAD_NORM))}
    losses |= {k: v for k, v in numbers.items() if k not in terms and k not in rates}
    metrics = _numbers(runner, VAL_PREFIX)
    machine = [('memory', _memory())]
    size = runner.train_dataloader.batch_size
    if seconds > 0 and size is not None:
        machine.insert(0, ('', f'{size * get_world_size() / seconds:.1f} images/s'))
    return [
        [(key, f'{value:#.4g}') for key, value in losses.items()],
        [(key, f'{value:#.4g}') for key, value in terms.items()],
        [*((key, f'{value:#.3g}') for key, value in rates.items()), *machine],
        [(f'val {k}', f'{v:.2f}') for k, v in metrics.items() if k not in ('time', 'data_time')],
    ]


def _numbers(runner: Runner, prefix: str) -> dict[str, float]:
    """The numbers as the log has them: the mean of the last ones, or the last."""
    processor = runner.log_processor
    found = {}
    for key, history in runner.message_hub.log_scalars.items():
        if key.startswith(prefix):
            name = key.removeprefix(prefix)
            is_mean = prefix == TRAIN_PREFIX and processor.mean_pattern.search(name)
            found[name] = float(
                history.mean(processor.window_size) if is_mean else history.current()
            )
    return found


def _memory() -> str:
    """What PyTorch holds of the GPU, or the most that the process has held of the memory."""
    if get_device() == 'cuda':
        total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        return f'{torch.cuda.memory_reserved() / GIB:.1f} of {total / GIB:.0f} GiB'
    # In KiB, but on macOS in bytes.
    unit = 1 if sys.platform == 'darwin' else 1024
    return f'{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB:.1f} GiB'
