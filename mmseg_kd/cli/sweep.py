"""Try options at several values: weights, temperatures, groups, layers.

PLAN is a config with sweep=dict(space=...) beside the rest. Trials that have a result are kept,
others go on where they stopped.

Told to stop by SIGTERM, SIGUSR1 or Ctrl-C, the trials write their checkpoints and the command ends
with exit code 75: the same command goes on.
"""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from mmseg_kd.cli.common import main_of
from mmseg_kd.cli.compare import (
    Table,
    add_queue_arguments,
    at_least_one,
    show_outcome,
    show_status,
)

if TYPE_CHECKING:
    from mmseg_kd.comparison.sweep import SweepPlan
    from mmseg_kd.runs.sweep import Sweep


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='mmseg-kd sweep',
        description=__doc__,
        epilog='example: mmseg-kd sweep PLAN.py --trials 20',
    )
    parser.add_argument('plan', metavar='PLAN', help='the plan, a config')
    parser.add_argument(
        '--trials',
        type=at_least_one,
        metavar='N',
        help='how many in all; default: as PLAN says, or all combinations',
    )
    add_queue_arguments(parser, 'trials')
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from mmseg_kd.comparison.queue import places
    from mmseg_kd.comparison.sweep import begin_sweep, read_sweep_plan
    from mmseg_kd.comparison.trials import run_sweep
    from mmseg_kd.config.experiments import run_name
    from mmseg_kd.engine.training import TrainingOptions, apply_options
    from mmseg_kd.runs.comparison import at_work

    folder = args.work_dir or Path('work_dirs', run_name(args.plan))
    if args.status:
        show_status(folder, status_of)
        return 0
    plan = read_sweep_plan(args.plan, args.trials)
    if args.amp:
        apply_options(plan.config, TrainingOptions(amp=True))
    if plan.validates_on_test:
        print(
            'Trials are judged on the data that the test measures, and what is reported on them '
            'would be tuned on them: sweep.held_out=dict(every=6) takes a part of train instead.'
        )
    with at_work(folder):
        sweep = begin_sweep(plan, folder)
        print(f'{sweep.count} trials, {"all combinations" if plan.is_grid else "chosen by Optuna"}')
        outcome = run_sweep(plan, sweep, places(args.jobs, sweep.count))
        try:
            _show_results(plan, sweep)
        finally:  # files that cannot be written, too
            show_outcome(outcome)
    if outcome.stopped:
        return os.EX_TEMPFAIL
    return 1 if outcome.failed else 0


def _show_results(plan: SweepPlan, sweep: Sweep) -> None:
    """Print the table of what the trials have found until now, and write it."""
    from mmseg_kd.checkpoints.save import atomic_write
    from mmseg_kd.comparison.sweep import BEST
    from mmseg_kd.runs.sweep_results import as_markdown, collect_trials, write

    found = collect_trials(sweep)
    if not found.rows:
        return
    best = sweep.folder / BEST
    check = shlex.join(['mmseg-kd', 'compare', str(best), '--work-dir', str(best.with_suffix(''))])
    print(f'\n{as_markdown(found, check)}')
    if found.best is not None:
        with atomic_write(best) as unfinished:
            unfinished.write_text(plan.comparison_with(found.best[0].options), encoding='utf-8')
    write(found, check)
    print(f'\nResults: {sweep.folder / "results.md"}, .csv and .json')


def status_of(folder: Path) -> Table:
    """The head and the rows of the table of trials, the best first."""
    from mmseg_kd.runs.comparison import is_at_work
    from mmseg_kd.runs.sweep import read_sweep
    from mmseg_kd.runs.sweep_results import collect_trials, table_of

    return table_of(collect_trials(read_sweep(folder), is_at_work(folder)))


# Networks are built to see that all values serve.
main = main_of(_parser, run, log_level='WARNING')
