"""Print a script that lets a shell complete commands, options and files.

bash: write it to a file, and add `source FILE` to ~/.bashrc; tcsh: the same with ~/.tcshrc. zsh:
write it to _mmseg-kd in a folder of $fpath. fish: write it to
~/.config/fish/completions/mmseg-kd.fish.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

import shtab

from mmseg_kd.cli.calling import finish
from mmseg_kd.cli.commands import COMMANDS
from mmseg_kd.cli.common import main_of

SHELLS = ('bash', 'zsh', 'tcsh', 'fish')


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='mmseg-kd completion',
        description=__doc__,
        epilog='example: mmseg-kd completion bash > ~/.mmseg-kd.bash',
    )
    parser.add_argument('shell', choices=SHELLS, help='one of %(choices)s')
    return parser


def parser_of_all() -> argparse.ArgumentParser:
    """The parsers of all commands as one."""
    whole = argparse.ArgumentParser(prog='mmseg-kd')
    whole.add_argument('--version', action='store_true', help="show the package's version")
    commands = whole.add_subparsers(dest='command')
    for command in COMMANDS.values():
        parser: argparse.ArgumentParser = import_module(command.module)._parser()
        # What lies outside this package has its own ways, and finishes its parser itself.
        if command.name != 'launch':
            finish(parser)
        _complete_files(parser)
        commands.add_parser(
            command.name, parents=[parser], add_help=False, help=command.summary
        ).prog = parser.prog
    return whole


def _complete_files(parser: argparse.ArgumentParser) -> None:
    """Where an argument is a word of any kind, files are offered."""
    for action in parser._actions:
        if action.choices is None and action.nargs != 0 and action.type in (None, str, Path):
            action.complete = shtab.FILE  # type: ignore[attr-defined]


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    print(shtab.complete(parser_of_all(), args.shell))
    return 0


main = main_of(_parser, run, needs_hosts=False)
