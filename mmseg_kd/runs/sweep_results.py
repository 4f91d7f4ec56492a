"""What a sweep has found, from what its trials left in their folders."""

from __future__ import annotations

import csv
import io
import json
import math
import shlex
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmseg_kd.checkpoints.save import atomic_write
from mmseg_kd.runs.comparison import State, state_of
from mmseg_kd.runs.markdown import markdown_table
from mmseg_kd.runs.sweep import Sweep, Trial

DONE = 'done'


@dataclass(frozen=True)
class Found:
    """A sweep's trials: the best first, then those without a result by their last validation.

    Attributes:
        sweep: Its folder.
        rows: The trials, each with how far it is.
    """

    sweep: Sweep
    rows: Sequence[tuple[Trial, State]]

    @property
    def best(self) -> tuple[Trial, State] | None:
        """None: no trial has come to its end."""
        first = next(iter(self.rows), None)
        return first if first is not None and _has_result(first[1]) else None


def _finite(state: State) -> float | None:
    """Its value; None where there is none yet, and where it is no number."""
    return state.value if state.value is not None and math.isfinite(state.value) else None


def _has_result(state: State) -> bool:
    return state.name == DONE and _finite(state) is not None


def collect_trials(sweep: Sweep, is_at_work: bool = False) -> Found:
    """The trials as they are now; `is_at_work` as in `state_of`."""
    rows = [(trial, state_of(trial, is_at_work)) for trial in sweep.trials()]

    def rank(row: tuple[Trial, State]) -> tuple[bool, bool, float, int]:
        trial, state = row
        value = _finite(state)
        cost = (value or 0.0) * (-1 if sweep.maximize else 1)
        return not _has_result(state), value is None, cost, trial.number

    return Found(sweep, sorted(rows, key=rank))


def short_names(names: Sequence[str]) -> list[str]:
    """The ends of dotted names, as long as it takes to tell them apart."""
    parts = [name.split('.') for name in names]
    longest = max(map(len, parts))
    for count in range(1, longest + 1):
        ends = ['.'.join(one[-count:]) for one in parts]
        if len(set(ends)) == len(ends):
            return ends
    return list(names)


def table_of(found: Found) -> tuple[Sequence[str], list[Sequence[str]]]:
    """The titles of the table, and its rows with a text for each of them."""
    sweep = found.sweep
    head = ('trial', sweep.metric, *short_names(sweep.names), 'iterations', 'state')
    rows: list[Sequence[str]] = [
        (
            str(trial),
            '' if state.value is None else f'{state.value:.2f}',
            *(_text(trial.options[name]) for name in sweep.names),
            f'{state.iteration}/{trial.iterations}',
            state.name,
        )
        for trial, state in found.rows
    ]
    return head, rows


def _text(value: Any) -> str:
    return f'{value:.4g}' if isinstance(value, float) else str(value)


def as_options(options: Mapping[str, Any]) -> str:
    """Options to be pasted: on a command line, or into a config where that cannot have them."""
    words = [f'{name}={value}'.replace(', ', ',') for name, value in options.items()]
    if _parsed(words) == repr(dict(options)):
        return f'--cfg-options {shlex.join(words)}'
    return f'options={dict(options)!r}'


def _parsed(words: Sequence[str]) -> str | None:
    """What a command line makes of KEY=VALUE, as code: '1' is not 1. None: an error."""
    from mmengine.config import DictAction

    parser = ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    try:
        return repr(parser.parse_args(['--cfg-options', *words]).cfg_options)
    except (AssertionError, ValueError, RecursionError):  # of brackets and dicts
        return None


def as_markdown(found: Found, check: str) -> str:
    """The table, the best trial to be pasted, and what is to be said of it.

    Args:
        found: The trials.
        check: The command that compares the best over seeds.
    """
    lines = [markdown_table(*table_of(found))]
    if found.best is not None:
        trial, state = found.best
        done = sum(_has_result(state) for _, state in found.rows)
        lines += [
            f'\nBest: {trial}, {trial.metric} {state.value:.2f}:',
            f'\n    {as_options(trial.options)}',
            f'\nThe best of {done} trials on one seed is optimistic: it was lucky too, and more so '
            'the more trials there are. Whether it pays, over other seeds and on the test split:',
            f'\n    {check}',
        ]
    return '\n'.join(lines)


def as_json(found: Found) -> str:
    """All trials in the order of the table; null where there is no value that is finite."""
    trials = [
        dict(
            trial=str(trial),
            state=state.name,
            value=_finite(state),
            iteration=state.iteration,
            iterations=trial.iterations,
            options=dict(trial.options),
        )
        for trial, state in found.rows
    ]
    sweep = found.sweep
    whole = dict(metric=sweep.metric, maximize=sweep.maximize, seed=sweep.seed, trials=trials)
    return json.dumps(whole, indent=2)


def as_csv(found: Found) -> str:
    """A line for each trial, with options by their whole names."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator='\n')
    sweep = found.sweep
    writer.writerow(['trial', sweep.metric, *sweep.names, 'iteration', 'iterations', 'state'])
    for trial, state in found.rows:
        writer.writerow(
            [
                trial,
                state.value,
                *(trial.options[name] for name in sweep.names),
                state.iteration,
                trial.iterations,
                state.name,
            ]
        )
    return table.getvalue().rstrip('\n')


def write(found: Found, check: str) -> None:
    """Write `results.json`, `results.csv` and `results.md` into the sweep's folder."""
    texts = {'json': as_json(found), 'csv': as_csv(found), 'md': as_markdown(found, check)}
    for form, text in texts.items():
        with atomic_write(found.sweep.folder / f'results.{form}') as unfinished:
            unfinished.write_text(f'{text}\n', encoding='utf-8')
