"""A command that runs as one of several: its output in a log, its progress on the terminal."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mmseg_kd.errors import KDError


class StepFailedError(KDError):
    """A command ended with an error."""


def run_step(title: str, command: Sequence[str], log: Path) -> None:
    """Run a command with its output in `log`, and show how far it is.

    Raises:
        StepFailedError: It ended with another exit code than 0; the message has its last lines.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    print(f'{title}\n  {" ".join(command[1:])}', flush=True)
    lines: list[str] = []
    live = sys.stdout.isatty()
    with (
        log.open('w', encoding='utf-8') as file,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            file.write(line)
            lines.append(line)
            progress = re.search(
                r'Iter\(train\) \[ *(\d+)/(\d+)\].*?eta: (\S+).*? loss: (\S+)', line
            )
            if progress:
                done, total, eta, loss = progress.groups()
                status = f'  {done}/{total} iterations, loss {loss}, {eta} to go'
                print(f'\r{status:<70}' if live else status, end='' if live else '\n', flush=True)
    if live:
        print('\r' + ' ' * 70, end='\r')
    if process.returncode != 0:
        tail = ''.join(lines[-12:]).rstrip()
        raise StepFailedError(
            f'{title}: ended with exit code {process.returncode}; its log is {log}:\n{tail}'
        )
    print(f'  done in {time.monotonic() - begun:.0f} s', flush=True)
