"""Compare methods over seeds, with the same budget: does it pay?

PLAN is a config whose experiments are the methods, with comparison=dict(baseline=NAME, ...) beside
them. Runs that have a result are kept, others go on where they stopped.

Told to stop by SIGTERM, SIGUSR1 or Ctrl-C, the runs write their checkpoints and the command ends
with exit code 75: the same command goes on.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmseg_kd.cli.common import main_of

if TYPE_CHECKING:
    from mmseg_kd.comparison.plan import Budget
    from mmseg_kd.comparison.queue import Outcome
    from mmseg_kd.runs.results import Results

# A head and rows.
Table = tuple[Sequence[str], list[Sequence[str]]]

# Seconds from one look at the runs to the next.
REFRESH_S = 2.0
# Lines of a table on a terminal that are no rows.
FRAME = 4
# The states of runs that are looked for first.
URGENT = ('running', 'failed', 'stopped')


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='mmseg-kd compare',
        description=__doc__,
        epilog='example: mmseg-kd compare PLAN.py --seeds 3 --budget iterations=4800',
    )
    parser.add_argument('plan', metavar='PLAN', help='the plan, a config')
    parser.add_argument(
        '--seeds',
        type=int,
        metavar='N',
        help='how many: of a list in PLAN the first N, and then those above its largest; default: '
        'as PLAN says',
    )
    parser.add_argument(
        '--budget',
        type=_budget,
        metavar='iterations=N|seconds=S',
        help='of each training, in iterations or in seconds of steps, whose time is measured '
        'first; default: as PLAN says',
    )
    parser.add_argument('--only', nargs='+', metavar='METHOD', help='only these, and the baseline')
    add_queue_arguments(parser, 'runs')
    return parser


def add_queue_arguments(parser: argparse.ArgumentParser, what: str) -> None:
    """Of a command that has many trainings: where, how many at a time, how far they are."""
    parser.add_argument(
        '--status', action='store_true', help=f'show how far the {what} are, and run nothing'
    )
    parser.add_argument(
        '--work-dir', type=Path, metavar='DIR', help=f'for the {what}; default: work_dirs/PLAN'
    )
    parser.add_argument(
        '--jobs',
        type=at_least_one,
        metavar='N',
        help=f'{what} at a time on each GPU, 1 by default; or on the CPU, as many as it has cores',
    )
    parser.add_argument(
        '--amp', action='store_true', help='mixed precision: float16 on a GPU, bfloat16 on a CPU'
    )


def _budget(text: str) -> tuple[str, float]:
    name, _, number = text.partition('=')
    try:
        if name == 'iterations':
            return name, int(number)
        if name == 'seconds':
            return name, float(number)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f'expected iterations=N or seconds=S, got {text!r}')


def at_least_one(text: str) -> int:
    """A number of an argument."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'expected 1 or more, got {text!r}')
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from mmseg_kd.comparison.folder import begin
    from mmseg_kd.comparison.plan import Budget, read_plan
    from mmseg_kd.comparison.process import StoppedError
    from mmseg_kd.comparison.queue import places, run_all
    from mmseg_kd.comparison.seconds import within_seconds
    from mmseg_kd.engine.training import TrainingOptions, apply_options
    from mmseg_kd.runs.comparison import at_work

    folder = args.work_dir or Path('work_dirs', Path(args.plan).stem)
    if args.status:
        show_status(folder, status_of)
        return 0
    budget: Budget | None = Budget(**dict([args.budget])) if args.budget else None
    plan = read_plan(args.plan, args.seeds, budget, args.only)
    if args.amp:
        for config in plan.methods.values():
            apply_options(config, TrainingOptions(amp=True))
    if len(plan.teachers) > 1:
        print('The methods have different teachers: none is measured, and no share of a gap.')
    with at_work(folder):
        wanted = len(plan.methods)
        try:
            if plan.seconds is not None:
                count = len(plan.methods) * len(plan.seeds)
                plan = within_seconds(plan, folder, places(args.jobs, count)[0])
        except StoppedError:
            print('Stopped; the same command begins anew.')
            return os.EX_TEMPFAIL
        comparison = begin(plan, folder)
        runs = [
            one
            for one in comparison.runs()
            if one.seed is None or (one.method in plan.methods and one.seed in plan.seeds)
        ]
        outcome = run_all(runs, places(args.jobs, len(runs)))
        try:
            show_results(folder)
        finally:  # files that cannot be written, too
            show_outcome(outcome)
    if outcome.stopped:
        return os.EX_TEMPFAIL
    return 1 if outcome.failed or len(plan.methods) < wanted else 0


def show_outcome(outcome: Outcome) -> None:
    """Print what the same command has left to do."""
    for one in outcome.failed:
        print(f'Failed: {one}; the same command tries again.')
    if outcome.stopped:
        print('Stopped; the same command goes on.')


def show_results(folder: Path) -> None:
    """Print the table of what the runs have found until now, and write it."""
    from mmseg_kd.runs.comparison import read_comparison
    from mmseg_kd.runs.results import collect, write
    from mmseg_kd.runs.results_figures import draw_results

    results = collect(read_comparison(folder))
    _print(results)
    if not results.rows:
        return
    write(results, folder)
    pictures = draw_results(results, folder)
    names = ', '.join(path.name for path in pictures)
    print(f'\nResults: {folder / "results.md"}, .csv and .json{", " if names else ""}{names}')


def _print(results: Results) -> None:
    """The table if it has rows; what it must not be read without is in red on a terminal."""
    from rich.console import Console

    from mmseg_kd.runs.results import as_markdown

    console = Console(soft_wrap=True, highlight=False, markup=False)
    warnings = [f'**{warning}**' for warning in results.warnings]
    for line in as_markdown(results).splitlines() if results.rows else warnings:
        console.print(line, style='bold red' if line in warnings else '')


def show_status(folder: Path, status_of: Callable[[Path], Table]) -> None:
    """Print how far the runs are: live on a terminal while there is work, else once.

    Args:
        folder: Of the runs.
        status_of: Gives the head and the rows of their table.

    Raises:
        LogError: There are none in the folder.
    """
    import time

    from mmseg_kd.runs.comparison import is_at_work
    from mmseg_kd.runs.markdown import markdown_table

    head, body = status_of(folder)
    if not sys.stdout.isatty():
        print(markdown_table(head, body))
        return
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table as RichTable

    console = Console()

    def table(lines: int | None) -> RichTable:
        head, body = status_of(folder)
        state = head.index('state')
        if lines is not None:
            body = fitting(body, state, lines - FRAME)
        found = RichTable(*head)
        for column in found.columns[1:]:
            column.justify = 'right'
        styles = {'done': 'green', 'failed': 'bold red', 'running': 'bold', 'pruned': 'dim'}
        for row in body:
            found.add_row(*row, style=styles.get(row[state], ''))
        return found

    with Live(table(console.height), console=console, auto_refresh=False) as live:
        while is_at_work(folder):
            time.sleep(REFRESH_S)
            live.update(table(console.height), refresh=True)
        live.update(table(None), refresh=True)  # all of it can be scrolled to now


def fitting(body: list[Sequence[str]], state: int, lines: int) -> list[Sequence[str]]:
    """Rows that fit: those at work or in trouble first, and how many of each state are left out.

    Args:
        body: All rows.
        state: Which of their cells says how far the run is.
        lines: How many rows there is room for.
    """
    if len(body) <= lines:
        return body
    rows = sorted(body, key=lambda row: [*URGENT, row[state]].index(row[state]))
    room = max(lines - 1, 0)
    left_out = Counter(row[state] for row in rows[room:])
    last = ', '.join(f'{count} {name}' for name, count in left_out.items())
    return [*rows[:room], (last, *[''] * (len(body[0]) - 1))]


def status_of(folder: Path) -> Table:
    """The head and the rows of the table of runs."""
    from mmseg_kd.runs.comparison import METRIC, is_at_work, read_comparison, state_of

    comparison, works = read_comparison(folder), is_at_work(folder)
    body = []
    for run in comparison.runs():
        state = state_of(run, works)
        made = '' if run.seed is None else f'{state.iteration}/{run.iterations}'
        value = '' if state.value is None else f'{state.value:.2f}'
        body.append((str(run), state.name, made, value))
    return ('run', 'state', 'iterations', METRIC), list(body)


main = main_of(_parser, run)
