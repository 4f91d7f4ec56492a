"""Where the runs ran, what they cost, and the commands that repeat them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from mmseg_kd.report.run import Run

COMMIT = 'commit of the folder it ran in'


def environments(runs: Sequence[Run]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Titles of the runs whose logs have an environment, and (name, a value for each)."""
    found = {}
    for run in runs:
        values = dict(run.log.environment)
        if commit := commit_of(run):
            values[COMMIT] = commit
        if time := run.meta.get('time'):
            values['checkpoint written'] = _time(str(time))
        if run.log.environment and run.has_folder:
            found[run.title] = values
    rows = [
        (name, [values.get(name, '') for values in found.values()])
        for name in dict.fromkeys(name for values in found.values() for name in values)
    ]
    return list(found), rows


def _time(text: str) -> str:
    """20261122_142127 as people write it; anything else as it is."""
    with suppress(ValueError):
        return f'{datetime.strptime(text, "%Y%m%d_%H%M%S"):%Y-%m-%d %H:%M}'
    return text


def commit_of(run: Run) -> str | None:
    """The commit that mmengine writes behind its version in a checkpoint; None: there is none."""
    match = re.fullmatch(r'[\d.]+?([0-9a-f]{40})', str(run.meta.get('mmengine_version', '')))
    return match.group(1) if match else None


@dataclass(frozen=True)
class Commands:
    """What repeats a run: title and command lines."""

    title: str
    lines: list[str]


def commands(runs: Sequence[Run]) -> list[Commands]:
    """Training and evaluation of every run that has a config of its own."""
    result = []
    for run in runs:
        if run.config_file is None or not run.has_folder:
            continue
        config = shlex.quote(str(run.config_file))
        seed = (run.config or {}).get('randomness') or {}
        options = f' --seed {seed["seed"]}' if seed.get('seed') is not None else ''
        options += ' --deterministic' if seed.get('deterministic') else ''
        if (run.config or {}).get('resume'):
            # The newest start went on from a checkpoint; the whole training is to be repeated.
            options += ' --cfg-options resume=False load_from=None'
        folder = shlex.quote(f'{run.folder}_again')
        command = 'mmseg-kd train'
        if run.log.environment.get('Distributed launcher', 'none') != 'none':
            ranks = run.log.environment.get('GPU number', '1')
            command = f'mmseg-kd launch {shlex.quote(ranks)} train'
        lines = [f'{command} {config} --work-dir {folder}{options}']
        if run.checkpoint is not None:
            # Without it the test would go to the work dir of the run, beside its logs.
            out = shlex.quote(f'{run.folder}_test')
            lines.append(f'mmseg-kd test {config} {shlex.quote(run.checkpoint)} --work-dir {out}')
        result.append(Commands(run.title, lines))
    return result


@dataclass(frozen=True)
class Cost:
    """A line of the table of speed and memory; None: not known.

    Attributes:
        run: Whose.
        step: Seconds of an iteration of training, the median.
        loading: Share of that spent waiting for data, in percent.
        memory: MiB on the GPU in training, the largest.
        hours: Of training, from the iterations and their time.
    """

    run: Run
    step: float | None
    loading: float | None
    memory: float | None
    hours: float | None


def costs(runs: Sequence[Run]) -> list[Cost]:
    """What every run costs, in training by its logs, and in use as measured."""
    result = []
    for run in runs:
        step, data = run.log.median('time'), run.log.median('data_time')
        memory = max((value for _, value in run.log.train.get('memory', [])), default=None)
        mean = [value for _, value in run.log.train.get('time', [])]
        hours = run.log.last_iteration * sum(mean) / len(mean) / 3600 if mean else None
        loading = 100 * data / step if step and data is not None else None
        result.append(Cost(run, step, loading, memory, hours))
    return result
