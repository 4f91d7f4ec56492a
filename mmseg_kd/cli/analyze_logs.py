"""Compare runs by what they logged: best and last mIoU, and curves.

Runs of one config with different seeds are taken together: their mean and standard deviation are
shown. NAME=DIR,DIR makes a group of any runs. A run that was resumed counts as one.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmseg_kd.cli.common import main_of
from mmseg_kd.errors import ConfigError, Problems
from mmseg_kd.runs.markdown import markdown_table

if TYPE_CHECKING:
    from mmseg_kd.runs.log import RunLog

METRIC = 'mIoU'


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='mmseg-kd analyze-logs',
        description=__doc__,
        epilog='example: mmseg-kd analyze-logs work_dirs/cgd_seed* '
        'plain=work_dirs/a,work_dirs/b --keys mIoU loss_ce --out curves.png',
    )
    parser.add_argument(
        'runs', nargs='+', metavar='RUN', help='work dir, scalars.json, or NAME=RUN,RUN,...'
    )
    parser.add_argument(
        '--keys',
        nargs='+',
        metavar='KEY',
        help=f'what is drawn, a row each: {METRIC}, loss, lr, or the end of a name, such as '
        f'loss_ce of decode.loss_ce; default: {METRIC}',
    )
    parser.add_argument('--out', type=Path, metavar='FILE', help='draw the curves: a .png, .svg')
    return parser


def notes(runs: Sequence[RunLog], name: str) -> list[str]:
    """What a reader of the table should know of the runs' logs."""
    found = []
    for run in runs:
        if run.unread:
            lines = '1 line' if run.unread == 1 else f'{run.unread} lines'
            verbs = 'cannot be read and is' if run.unread == 1 else 'cannot be read and are'
            found.append(f'{run.folder}: {lines} of its log {verbs} left out.')
        if run.curve(name) is None:
            found.append(f'{run.folder}: no {name} was logged yet.')
    return found


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from mmseg_kd.runs.curves import draw_curves, full_name, read_groups, summary

    if args.keys and args.out is None:
        raise ConfigError('--keys goes with --out FILE, the picture that they are drawn in.')
    groups = read_groups(args.runs)
    runs = [run for group in groups for run in group.runs]
    head = ('run', f'best {METRIC}', f'last {METRIC}', 'at iteration')
    print(markdown_table(head, summary(groups, METRIC)))
    if any(len(group.runs) > 1 for group in groups):
        print('\nmean ± standard deviation (runs)')
    for note in notes(runs, METRIC):
        print(note)
    if args.out is not None:
        problems = Problems()
        names = []
        for key in args.keys or [METRIC]:
            with problems:
                names.append(full_name(key, runs))
        problems.raise_if_any()
        try:
            draw_curves(groups, names, args.out)
        except (OSError, ValueError) as error:  # an ending that matplotlib does not know
            raise ConfigError(f'--out {args.out}: {error}') from error
        print(f'Picture: {args.out}')
    return 0


main = main_of(_parser, run, needs_hosts=False)
