"""The live view, through the command line in a pseudo-terminal."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import signal
import struct
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import termcolor
import torch
from mmengine.device import utils as host_device
from mmengine.registry import init_default_scope
from training_runs import Training, train_to_the_end, training, variant, write_project

from mmseg_kd.errors import ConfigError
from mmseg_kd.hooks import IterationSeedHook, ProgressHook, progress_hook

COLUMNS = 500  # no line of the log is broken
TERMINAL = dict(TERM='xterm-256color', COLUMNS='', LINES='', NO_COLOR='')


class Screen:
    """What a terminal makes of what is written to it: as much as is needed here."""

    def __init__(self) -> None:
        self.lines = ['']
        self.row = self.column = 0
        self.shows_cursor = True

    def feed(self, text: str) -> None:
        for code, character in re.findall(r'(\x1b\[[?\d;]*[A-Za-z])|([\s\S])', text):
            if code.endswith('A'):
                self.row -= int(code[2:-1] or 1)
                assert self.row >= 0
            elif code == '\x1b[2K':
                self.lines[self.row] = ''
            elif code in ('\x1b[?25l', '\x1b[?25h'):
                self.shows_cursor = code.endswith('h')
            elif code:
                assert code.endswith('m'), code
            elif character == '\r':
                self.column = 0
            elif character == '\n':
                self.row += 1
                self.lines += [''] * (self.row + 1 - len(self.lines))
            else:
                line = self.lines[self.row].ljust(self.column)
                self.lines[self.row] = line[: self.column] + character + line[self.column + 1 :]
                self.column += 1


class Terminal:
    """A pseudo-terminal on which a training runs, and all that was written to it."""

    def __init__(self) -> None:
        self.master, self.slave = pty.openpty()
        size = struct.pack('HHHH', 24, COLUMNS, 0, 0)
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, size)
        self.written = b''
        self.reader = threading.Thread(target=self._read)

    def _read(self) -> None:
        try:
            while part := os.read(self.master, 65536):
                self.written += part
        except OSError:  # nobody is left on the other side
            pass

    def take_output(self) -> None:
        """In the training's process: write there."""
        os.dup2(self.slave, 1)
        os.dup2(self.slave, 2)
        # It remembers what the test's own output is.
        if hasattr(termcolor, 'can_colorize'):
            termcolor.can_colorize.cache_clear()

    @contextmanager
    def training(
        self,
        command: list[str],
        folder: Path,
        prepare: Callable[[], Any] = lambda: None,
        **environment: str,
    ) -> Iterator[Training]:
        def on_terminal() -> None:
            self.take_output()
            progress_hook.LARGEST_SHARE = 1e9  # draw each iteration of a run as short as this
            prepare()

        environment = TERMINAL | environment
        # rich takes them for set when they are there.
        environment = {k: v for k, v in environment.items() if v}
        with training(command, folder / 'unused.log', environment, on_terminal) as process:
            os.close(self.slave)
            self.reader.start()
            yield process
        self.reader.join()
        os.close(self.master)

    @property
    def text(self) -> str:
        return self.written.decode()

    def screens(self) -> Iterator[list[str]]:
        """What is to be seen before each time that the bars are drawn anew."""
        screen = Screen()
        for part in re.split(r'(?=\r\x1b\[2K)', self.text):
            screen.feed(part)
            assert screen.shows_cursor  # nobody would show it again if the run were killed now
            yield list(screen.lines)

    @property
    def last(self) -> Screen:
        screen = Screen()
        screen.feed(self.text)
        return screen


@pytest.fixture(scope='module')
def config(tmp_path_factory: pytest.TempPathFactory) -> str:
    init_default_scope('mmseg')  # a fixture of a module comes before the one that sets it
    return write_project(
        tmp_path_factory.mktemp('project'),
        "custom_hooks = [dict(type='ProgressHook', interval=1e-6)]",
    )


def from_the_first_iteration(lines: list[str]) -> list[str]:
    """The lines from there on, without their times."""
    lines = [re.sub(r'^[\d/]+ [\d:]+ ', '', line) for line in lines]
    return lines[next(i for i, line in enumerate(lines) if 'Iter(train)' in line) :]


def log_of(work_dir: Path) -> list[str]:
    [log] = work_dir.glob('*/*.log')
    return log.read_text(encoding='utf-8').splitlines()


def test_on_a_terminal(config: str, tmp_path: Path) -> None:
    terminal = Terminal()
    with terminal.training([config, '--work-dir', str(tmp_path)], tmp_path) as process:
        assert process.wait() == 0, terminal.text
    # At the end: the log as the file has it, each line once, and nothing else.
    seen = from_the_first_iteration(terminal.last.lines)
    log = from_the_first_iteration(log_of(tmp_path))
    assert len(log) > 20
    assert [line for line in seen if line in log] == log
    assert not any('━' in line or 'images/s' in line for line in seen)
    assert terminal.last.shows_cursor
    assert re.search(r'\x1b\[4;[39]7mINFO\x1b\[0m', terminal.text)  # the log's own colours
    # In between: bars and numbers below it.
    views = ['\n'.join(lines) for lines in terminal.screens()]
    during = next(view for view in views if re.search('train .*━.* 6/8 +75%', view))
    log_part, _, bars = during.rpartition('\ntrain ')
    assert 'Iter(train) [6/8]' in log_part
    assert re.search(r'[\d.]+ images/s  memory [\d.]+ ', bars)
    assert re.search(r'val aAcc [\d.]+  val mIoU [\d.]+', bars)
    assert any(re.search('\nval .*━.* 2/3 +66%', view) for view in views)
    # The numbers are those of the line of the log, just above.
    [line] = [line for line in log if 'Iter(train) [6/8]' in line]
    names = ('loss', 'task_loss', 'decode.loss_ce', 'kd.kl', 'kd_weight.kl', 'lr', 'grad_norm')
    for name in names:
        there = re.search(rf' {re.escape(name)}: (\S+)', line)
        here = re.search(rf'(?:^|  ){re.escape(name)} (\S+)', bars, re.M)
        assert there and here, name
        assert float(here[1]) == pytest.approx(float(there[1]), rel=6e-3), name


def stop(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGINT)


def fail(*_: Any, **__: Any) -> None:
    raise RuntimeError('a trap')


@pytest.mark.parametrize(
    ('trap', 'code', 'end'), [(stop, 75, 'with --resume.'), (fail, 1, 'RuntimeError: a trap')]
)
def test_it_leaves_when_the_run_ends_early(
    config: str, tmp_path: Path, trap: Callable[..., None], code: int, end: str
) -> None:
    def set_trap() -> None:
        IterationSeedHook.after_train_iter = trap  # type: ignore[method-assign]

    terminal = Terminal()
    with terminal.training([config, '--work-dir', str(tmp_path)], tmp_path, set_trap) as process:
        assert process.wait() == code
    assert '━' in terminal.text
    screen = terminal.last
    assert screen.lines[screen.row - 1].endswith(end)
    assert not any('━' in line for line in screen.lines)
    assert not any(screen.lines[screen.row :])
    assert screen.shows_cursor


def test_where_nothing_is_to_move(config: str, tmp_path: Path) -> None:
    """No terminal, a dumb one, or switched off: plain lines, no codes but the log's colours."""
    plain = train_to_the_end([config, '--work-dir', str(tmp_path / 'a')], tmp_path / 'file.log')
    dumb, off = Terminal(), Terminal()
    command = [config, '--work-dir', str(tmp_path / 'b')]
    with dumb.training(command, tmp_path, TERM='dumb') as process:
        assert process.wait() == 0
    switched = variant(config, 'off.py', "\ncustom_hooks[0]['enabled'] = False\n")
    with off.training([switched, '--work-dir', str(tmp_path / 'c')], tmp_path) as process:
        assert process.wait() == 0
    for text in (plain, dumb.text, off.text):
        assert 'Iter(train) [8/8]' in text
        assert '━' not in text
        assert 'images/s' not in text
    assert '\x1b' not in plain + dumb.text
    assert set(re.findall(r'\x1b\[\d+', off.text)) <= {
        '\x1b[4',
        '\x1b[37',
        '\x1b[97',
        '\x1b[33',
        '\x1b[0',
    }


@pytest.mark.parametrize(
    ('is_terminal', 'environment', 'expected'),
    [
        (True, dict(TERM='xterm'), True),
        (True, dict(TERM='dumb'), False),
        (False, dict(TERM='xterm'), False),
        (False, dict(TERM='xterm', FORCE_COLOR='1'), False),  # as some CI has it
    ],
)
def test_what_a_terminal_is(
    is_terminal: bool,
    environment: dict[str, str],
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv('FORCE_COLOR', raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    output = io.StringIO()
    output.isatty = lambda: is_terminal  # type: ignore[method-assign]
    monkeypatch.setattr(sys, 'stdout', output)
    assert (progress_hook._terminal() is not None) is expected


def test_without_colours(config: str, tmp_path: Path) -> None:
    terminal = Terminal()
    command = [config, '--work-dir', str(tmp_path)]
    with terminal.training(command, tmp_path, NO_COLOR='1') as process:
        assert process.wait() == 0
    assert '━' in terminal.text
    assert not re.search(r'\x1b\[(?:\d+;)*[349]\d', terminal.text)


def test_other_ranks_show_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_hook, 'is_main_process', lambda: False)
    monkeypatch.setattr(progress_hook, '_terminal', lambda: pytest.fail('rank 1 looks at it'))
    before = sys.stdout
    hook = ProgressHook()
    hook.before_train(SimpleNamespace())
    hook.after_train_iter(SimpleNamespace(), 0)
    hook.close()
    assert sys.stdout is before


def test_the_time_left_is_that_of_the_last_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where validations, which draw and have a time left of their own, come in quickly."""
    shown: list[Any] = []
    live = SimpleNamespace(update=lambda progress, refresh: shown.append(progress))
    monkeypatch.setattr(progress_hook, '_entries', lambda _: [])
    hook = ProgressHook(interval=1000)
    hook._live, hook._next = live, float('inf')  # type: ignore[assignment]
    info = dict(eta=9.0)
    hub = SimpleNamespace(runtime_info=info)
    runner = SimpleNamespace(message_hub=hub, iter=0, max_iters=4, val_dataloader=[0])
    for runner.iter, info['eta'] in ((0, 9.0), (1, 6.0)):
        hook.after_train_iter(runner, runner.iter)
        info['eta'] = 0.5
        hook.before_val_epoch(runner)
        hook.after_val_epoch(runner)
    assert [progress.stages[0].seconds_left for progress in shown] == [9.0, 9.0, 6.0, 6.0]


@pytest.mark.parametrize('arguments', [dict(enabled='no'), dict(interval=0), dict(interval='1')])
def test_wrong_arguments(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f'expected {next(iter(arguments))}'):
        ProgressHook(**arguments)


def test_the_memory_is_that_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(host_device, 'DEVICE', 'cpu')
    assert re.fullmatch(r'[\d.]+ GiB', progress_hook._memory())
