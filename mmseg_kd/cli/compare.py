"""Compare methods over seeds, with the same budget: does it pay?

PLAN is a config whose experiments are the methods, with comparison=dict(baseline=NAME, ...) beside
them. Runs that have a result are kept, others go on where they stopped.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from mmseg_kd.cli.common import run_command


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='mmseg-kd compare',
        description=__doc__,
        epilog='example: mmseg-kd compare PLAN.py --seeds 3 --budget iterations=4800',
    )
    parser.add_argument('plan', metavar='PLAN', help='the plan, a config')
    parser.add_argument('--seeds', type=int, metavar='N', help='how many; default: as PLAN says')
    parser.add_argument(
        '--budget',
        type=_budget,
        metavar='iterations=N',
        help='of each training; default: as PLAN says',
    )
    parser.add_argument('--only', nargs='+', metavar='METHOD', help='only these, and the baseline')
    parser.add_argument('--work-dir', type=Path, metavar='DIR', help='for the runs')
    parser.add_argument(
        '--jobs', type=int, default=1, metavar='N', help='runs at a time on each GPU; default: 1'
    )
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision')
    return parser


def _budget(text: str) -> int:
    name, _, number = text.partition('=')
    if name != 'iterations' or not number.isdecimal():
        raise argparse.ArgumentTypeError(f'expected iterations=N, got {text!r}')
    return int(number)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from mmseg_kd.comparison.plan import read_plan
    from mmseg_kd.comparison.queue import places, run_all, runs_of
    from mmseg_kd.comparison.results import as_markdown, collect, write

    plan = read_plan(args.plan, args.seeds, args.budget, args.only)
    folder = args.work_dir or Path('work_dirs', Path(args.plan).stem)
    outcome = run_all(plan, folder, places(args.jobs), args.amp)
    results = collect(runs_of(plan, folder), plan.baseline)
    if results.rows:
        write(results, folder)
        print(as_markdown(results))
    if outcome.stopped:
        print('Stopped; the same command goes on.')
        return os.EX_TEMPFAIL
    return 1 if outcome.failed else 0


def main(args: Sequence[str] | None = None) -> int:
    """Parse `args` (None: the command line) and compare; returns the exit code."""
    return run_command(_parser(), run, args)
