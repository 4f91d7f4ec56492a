"""Processes that a comparison starts: their output in a log, their end as they were told."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

# How often the processes are looked at.
POLL_S = 0.2
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
# How a process ends that was told to stop: with a checkpoint, or where there was none to write.
STOPPED = (os.EX_TEMPFAIL, *(-number for number in _SIGNALS))
# The last line of a traceback.
_EXCEPTION = re.compile(r'[\w.]+(Error|Exception|Interrupt)\b')


class StoppedError(Exception):
    """A signal asked to stop before there was any run."""


def start(
    command: Sequence[str], environment: Mapping[str, str], log: Path
) -> subprocess.Popen[bytes]:
    """Start a module of this room as a process; a log from before is written over."""
    module, *arguments = command
    with log.open('wb') as file:
        return subprocess.Popen(
            [sys.executable, '-m', f'mmseg_kd.comparison.{module}', *arguments],
            env={**os.environ, **environment},
            # Nothing comes through it: its end tells that this process is gone.
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            # Ctrl-C comes to this process alone, which passes it on.
            start_new_session=True,
        )


def last_words(log: Path) -> str:
    """What a log ends with: from the last error of a user's on, or else the last exception."""
    lines = log.read_text(encoding='utf-8', errors='replace').strip().splitlines() or ['no word']
    errors = [index for index, line in enumerate(lines) if line.startswith('error: ')]
    if errors:
        return '\n'.join(lines[errors[-1] :]).removeprefix('error: ')
    # Python and CUDA may add warnings and advice to it.
    exceptions = [line for line in lines if _EXCEPTION.match(line)]
    return (exceptions or lines)[-1]


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """A list that is no longer empty once a signal has asked to stop."""
    asked: list[int] = []
    before = {
        kind: signal.signal(kind, lambda number, _: asked.append(number)) for kind in _SIGNALS
    }
    try:
        yield asked
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
