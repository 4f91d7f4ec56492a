"""What the commands share: their arguments and errors."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction

import mmseg_kd.register  # noqa: F401  what configs name
from mmseg_kd.checkpoints import checkpoint_trust
from mmseg_kd.cli.calling import ending_quietly, finish
from mmseg_kd.config.experiments import run_name
from mmseg_kd.config.network_spec import NetworkSpec, is_distillation, teachers_of
from mmseg_kd.errors import ConfigError, KDError, message_of


def run_command(
    parser: argparse.ArgumentParser,
    command: Callable[[argparse.Namespace], int],
    args: Sequence[str] | None,
) -> int:
    """Parse `args` and run `command`; a user's error is one message and exit code 1."""
    finish(parser)
    parsed = parser.parse_args(args)
    try:
        # Commands that read no checkpoint do not have the argument.
        with ending_quietly(), checkpoint_trust(getattr(parsed, 'trust_checkpoint', False)):
            return command(parsed)
    except KDError as error:
        if parsed.debug:
            raise
        rank = os.environ.get('RANK', '0')
        print(
            f'error{"" if rank == "0" else f" (rank {rank})"}: {message_of(error)}', file=sys.stderr
        )
        return 1


class Options(DictAction):
    """mmengine's KEY=VALUE, with a message where an argument is none."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        try:
            super().__call__(parser, namespace, values, option_string)
        except (AssertionError, ValueError):  # no '=', or brackets that do not match
            text = ' '.join(values)
            parser.error(f'{option_string}: expected KEY=VALUE, got {text!r}')
        except RecursionError:  # the host's parser goes round in circles
            text = ' '.join(values)
            parser.error(
                f'{option_string}: expected numbers, words and lists of them for values, got '
                f'{text!r}; put dicts into a config'
            )


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """The config and its overrides."""
    parser.add_argument(
        'config',
        help='config file, FILE.py::NAME for one of its experiments, or mmseg::...',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=Options,
        metavar='KEY=VALUE',
        help='override entries of the config, such as train_dataloader.batch_size=8',
    )


def add_trust_argument(parser: argparse.ArgumentParser) -> None:
    """What a command has that reads checkpoints."""
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='read checkpoints that run code when they are read, too; only where you trust those '
        'who made them',
    )


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Where and on what the runner runs, and whether the checkpoints are trusted."""
    add_trust_argument(parser)
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    parser.add_argument(
        '--device',
        choices=['auto', 'cuda'],
        default='auto',
        help='auto: CUDA where there is one, else the CPU; cuda: an error where there is none',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    # torchrun sets the environment; the argument is what older launchers pass.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def place_run(cfg: Config, args: argparse.Namespace) -> None:
    """Say where a run writes, and which rank of its machine this is."""
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs') / run_name(args.config))


def teacher_of(cfg: Config, name: str | None) -> NetworkSpec:
    """A teacher of a config.

    Args:
        cfg: The config.
        name: Its name; None: the only one there is.

    Raises:
        ConfigError: There is none, or none of this name, or a name is needed.
    """
    names, specs = teachers_of(cfg) if is_distillation(cfg) else ([], {})
    if not names:
        raise ConfigError('--teacher: the config is no distillation with a teacher.')
    if name is None and len(names) == 1:
        return specs[names[0]]
    if name not in names:
        given = 'no name' if name is None else repr(name)
        raise ConfigError(
            f'--teacher: got {given}, expected one of {", ".join(names)}. A checkpoint goes before '
            '--teacher.'
        )
    return specs[name]
