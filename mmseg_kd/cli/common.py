"""What the commands share: their arguments and errors."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmseg_kd.checks import DEVICES, is_device_name
from mmseg_kd.cli.calling import ending_quietly, finish
from mmseg_kd.errors import ConfigError, KDError, message_of

if TYPE_CHECKING:
    from mmengine.config import Config


def main_of(
    parser_of: Callable[[], argparse.ArgumentParser],
    run: Callable[[argparse.Namespace], int],
    needs_hosts: bool = True,
    log_level: str | None = None,
) -> Callable[..., int]:
    """The `main(args)` of a command; a user's error is one message and exit code 1.

    Args:
        parser_of: Makes the command's parser.
        run: Takes the parsed arguments and returns the exit code.
        needs_hosts: Whether the command works with mmengine and mmseg, whose import takes seconds.
        log_level: The lowest level of the hosts' log that is shown; None: theirs. Only with
            `needs_hosts`.

    Returns:
        Parses `args` (None: the command line), runs the command and returns the exit code.
    """

    def main(args: Sequence[str] | None = None) -> int:
        parser = parser_of()
        finish(parser)
        parsed = parser.parse_args(args)
        try:
            with ending_quietly(), _hosts(parsed, log_level) if needs_hosts else nullcontext():
                return run(parsed)
        except KDError as error:
            if parsed.debug:
                raise
            rank = os.environ.get('RANK', '0')
            where = '' if rank == '0' else f' (rank {rank})'
            print(f'error{where}: {message_of(error)}', file=sys.stderr)
            return 1

    return main


@contextmanager
def _hosts(args: argparse.Namespace, log_level: str | None) -> Iterator[None]:
    """Inside, the hosts know what configs name, and checkpoints are trusted as `args` say."""
    from mmengine.logging import MMLogger

    import mmseg_kd.register  # noqa: F401
    from mmseg_kd.checkpoints import checkpoint_trust

    if log_level is not None:
        MMLogger.get_current_instance().setLevel(log_level)
    # Commands that read no checkpoint do not have the argument.
    with checkpoint_trust(getattr(args, 'trust_checkpoint', False)):
        yield


class Options(argparse.Action):
    """mmengine's KEY=VALUE, with a message where an argument is none."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        from mmengine.config import DictAction

        text = ' '.join(values)
        try:
            DictAction(self.option_strings, self.dest)(parser, namespace, values, option_string)
        except (AssertionError, ValueError):  # no '=', or brackets that do not match
            parser.error(f'{option_string}: expected KEY=VALUE, got {text!r}')
        except RecursionError:  # the host's parser goes round in circles
            parser.error(
                f'{option_string}: expected numbers, words and lists of them for values, got '
                f'{text!r}; put dicts into a config'
            )


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """The config and its overrides."""
    parser.add_argument(
        'config',
        help='config file, FILE.py::NAME for one of its experiments, mmseg::... or mmseg_kd::...',
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


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """On what a command runs."""
    parser.add_argument(
        '--device',
        type=_device,
        default='auto',
        help=f'{DEVICES}; default: auto, a GPU where there is one, else the CPU',
    )


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Where and on what the runner runs, and whether the checkpoints are trusted."""
    add_trust_argument(parser)
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    add_device_argument(parser)
    add_rank_arguments(parser)


def add_rank_arguments(parser: argparse.ArgumentParser) -> None:
    """What makes a command one of several ranks."""
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    # torchrun sets the environment; the argument is what older launchers pass.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def add_workers_argument(parser: argparse.ArgumentParser) -> None:
    """How many processes a command reads files with."""
    parser.add_argument(
        '--workers',
        type=int,
        default=min(os.cpu_count() or 1, 16),
        help='processes that read; 0: none but this one (default: one a core, here %(default)s)',
    )


def check_workers(number: int) -> None:
    """See that there can be so many.

    Raises:
        ConfigError: There cannot.
    """
    if number < 0:
        raise ConfigError(f'--workers: expected 0 or more processes; got {number}.')


def _device(text: str) -> str:
    if not is_device_name(text):
        raise argparse.ArgumentTypeError(f'expected {DEVICES}, got {text!r}')
    return text


def place_run(cfg: Config, args: argparse.Namespace) -> None:
    """Say where a run writes, and which rank of its machine this is."""
    from mmseg_kd.config.experiments import run_name

    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs') / run_name(args.config))
