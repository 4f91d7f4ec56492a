"""`mmseg-kd COMMAND`: finds the command and hands it the arguments."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from mmseg_kd import __version__
from mmseg_kd.cli.calling import INTERRUPTED
from mmseg_kd.cli.commands import COMMANDS, GROUPS

USAGE = 2


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    groups = (
        '\n'.join([f'{title}:', *(f'  {c.name:<{width}}  {c.summary}' for c in commands)])
        for title, commands in GROUPS.items()
    )
    parser = argparse.ArgumentParser(
        prog='mmseg-kd',
        usage='%(prog)s [-h] [--version] COMMAND ...',
        description='\n\n'.join(
            ['Distil large semantic segmentation networks into small ones.', *groups]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='mmseg-kd COMMAND --help tells what a command does and takes, and has an example:\n'
        '  mmseg-kd train mmseg_kd::distillation_configs/example_config.py --resume\n\n'
        'exit codes: 0 done, 1 an error that the message tells how to mend, 2 wrong\n'
        'arguments, 75 a training was stopped and can be resumed, 130 Ctrl-C',
    )
    parser.add_argument('--version', action='store_true', help="show the package's version")
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """Run a command (`args` None: the command line); returns the exit code."""
    args = sys.argv[1:] if args is None else list(args)
    try:
        if args and args[0] in COMMANDS:
            return _run(args[0], args[1:])
        return _help(args)
    except KeyboardInterrupt:  # while the package is imported
        return INTERRUPTED


def _run(name: str, args: Sequence[str]) -> int:
    run: Callable[[Sequence[str]], int] = import_module(COMMANDS[name].module).main
    return run(args)


def _help(args: Sequence[str]) -> int:
    parser = _parser()
    if args and not args[0].startswith('-'):
        [close] = difflib.get_close_matches(args[0], COMMANDS, n=1, cutoff=0.0)
        parser.error(f'there is no command {args[0]!r}; nearest: {close}')
    parsed, _ = parser.parse_known_args(args)
    if parsed.version:
        print(__version__)
        return 0
    if args:
        parser.error(f'expected a command, got {args[0]!r}')
    parser.print_help(sys.stderr)
    return USAGE
