"""What all commands' help has, and how their processes end."""

from __future__ import annotations

import argparse
import os
import select
import signal
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# What a shell makes of a death by a signal.
INTERRUPTED = 128 + signal.SIGINT
NO_READER = 128 + signal.SIGPIPE

EXIT_CODES = (
    'exit codes: 0 done, 1 an error that the message tells how to mend, 2 wrong arguments, '
    f'{os.EX_TEMPFAIL} stopped and can go on, {INTERRUPTED} Ctrl-C'
)


class _Paragraphs(argparse.HelpFormatter):
    """Fills each paragraph of a text; examples can be copied, however long they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return '\n\n'.join(self._fill(one, width, indent) for one in text.strip().split('\n\n'))

    def _fill(self, text: str, width: int, indent: str) -> str:
        if not text.startswith('example'):
            return super()._fill_text(text, width, indent)
        return '\n'.join(_continued(line, width) for line in text.split('\n'))


def _continued(line: str, width: int) -> str:
    """A command over as many lines as it needs, as a shell takes it."""
    lines = textwrap.wrap(line, width - 2, subsequent_indent=' ' * 6, break_on_hyphens=False)
    return ' \\\n'.join(lines)


def finish(parser: argparse.ArgumentParser) -> None:
    """Give a command's parser what all have: `--debug`, and the exit codes below its example."""
    debug: dict[str, Any] = dict(action='store_true', help='show the traceback of an error')
    parser.add_argument('--debug', **debug)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                # Where it is not given there it keeps what was said before the command.
                command.add_argument('--debug', default=argparse.SUPPRESS, **debug)
    parser.epilog = f'{parser.epilog}\n\n{EXIT_CODES}'
    parser.formatter_class = _Paragraphs


@contextmanager
def ending_quietly() -> Iterator[None]:
    """Ctrl-C, and a reader of stdout that goes, as `head` does, end the process without a word.

    Raises:
        SystemExit: With the code that a shell gives such an end.
    """
    try:
        yield
        sys.stdout.flush()
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:
        if _has_reader():
            raise
        # What is left in the buffer is written at the end of the process.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(NO_READER) from None


def _has_reader() -> bool:
    """Whether what is printed arrives: a pipe that broke may be another than stdout."""
    asked = select.poll()
    asked.register(sys.stdout.fileno(), 0)  # errors and hang-ups are told in any case
    return not asked.poll(0)
