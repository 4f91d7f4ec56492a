"""The table of a comparison, from what its runs left in their folders."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmseg_kd.checkpoints.save import atomic_write
from mmseg_kd.comparison.run import Run
from mmseg_kd.comparison.statistics import Estimate, paired_gain, share_of_gap
from mmseg_kd.errors import LogError
from mmseg_kd.runs.log import read_log
from mmseg_kd.runs.markdown import markdown_table

METRIC = 'mIoU'


@dataclass(frozen=True)
class Row:
    """A method over its seeds.

    Attributes:
        method: Its name.
        values: Its metric on the test split, in percent, by seed.
        gain: Above the baseline; None of the baseline itself.
        share: Of the gap to the teacher that the gain closes; None where there is none.
        iterations: Of each training.
        step_s: Median seconds of a step.
        peak_mib: The most memory of the GPU; None on a CPU.
    """

    method: str
    values: dict[int, float]
    gain: Estimate | None
    share: Estimate | None
    iterations: int
    step_s: float
    peak_mib: float | None

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return statistics.fmean(self.values.values())

    @property
    def deviation(self) -> float | None:
        """Of a sample; None of a single seed."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else None

    @property
    def verdict(self) -> str:
        """In words, what the interval allows to say."""
        if self.gain is None:
            return 'baseline'
        if not self.gain.is_distinguishable:
            return 'not distinguishable from the baseline'
        return 'better than the baseline' if self.gain.mean > 0 else 'worse than the baseline'


@dataclass(frozen=True)
class Results:
    """All that a comparison has measured until now.

    Attributes:
        teacher: The teacher's metric in percent; None where there is no teacher, or not yet.
        rows: The baseline first, then the others, the best first.
    """

    teacher: float | None
    rows: Sequence[Row]


def collect(runs: Sequence[Run], baseline: str) -> Results:
    """The results of the runs that have come to their end."""
    values: dict[str, dict[int, float]] = {}
    teacher = None
    for run in runs:
        metrics = run.metrics()
        if metrics is None:
            continue
        if run.seed is None:
            teacher = metrics[METRIC]
        else:
            values.setdefault(run.method, {})[run.seed] = metrics[METRIC]
    ours = values.get(baseline, {})
    rows = []
    for method, by_seed in values.items():
        gain = None if method == baseline else paired_gain(by_seed, ours)
        share = None
        if gain is not None and teacher is not None:
            share = share_of_gap(gain, statistics.fmean(ours.values()), teacher)
        costs = [_cost(run) for run in runs if run.method == method and run.seed in by_seed]
        peaks = [peak for _, _, peak in costs if peak is not None]
        rows.append(
            Row(
                method,
                by_seed,
                gain,
                share,
                max(iterations for iterations, _, _ in costs),
                statistics.median(seconds for _, seconds, _ in costs),
                max(peaks) if peaks else None,
            )
        )
    rows.sort(key=lambda row: (row.method != baseline, -row.mean))
    return Results(teacher, rows)


def _cost(run: Run) -> tuple[int, float, float | None]:
    """Iterations, median seconds of a step, and peak MiB of a training."""
    try:
        log = read_log(run.folder)
    except LogError:
        return 0, float('nan'), None
    # The last validation is that of the end. A short run has logged no time.
    last = log.val[METRIC].iterations[-1]
    time, memory = log.train.get('time'), log.train.get('memory')
    seconds = float('nan') if time is None else statistics.median(time.values.tolist())
    return int(last), float(seconds), None if memory is None else float(memory.values.max())


def as_markdown(results: Results) -> str:
    """The table, and the teacher's figure below it."""
    head = ('method', METRIC, 'gain', '95 %', 'of the gap', 'ms / step', 'MiB', 'iterations', '')
    lines = [markdown_table(head, [_cells(row) for row in results.rows])]
    if results.teacher is not None:
        lines.append(f'\nTeacher: {results.teacher:.2f}.')
    return '\n'.join(lines)


def _cells(row: Row) -> tuple[str, ...]:
    spread = '' if row.deviation is None else f' ± {row.deviation:.2f}'
    gain = interval = share = ''
    if row.gain is not None:
        gain, interval = f'{row.gain.mean:+.2f}', f'{row.gain.low:+.2f} to {row.gain.high:+.2f}'
    if row.share is not None:
        share = f'{row.share.mean:.0%}'
    peak = '' if row.peak_mib is None else f'{row.peak_mib:.0f}'
    cost = (f'{row.step_s * 1e3:.0f}', peak, str(row.iterations))
    return (row.method, f'{row.mean:.2f}{spread}', gain, interval, share, *cost, row.verdict)


def write(results: Results, folder: Path) -> None:
    """Write `results.json` and `results.md`."""
    as_json: dict[str, Any] = dict(teacher=results.teacher)
    as_json['methods'] = [
        {**asdict(row), 'mean': row.mean, 'deviation': row.deviation, 'verdict': row.verdict}
        for row in results.rows
    ]
    texts = {'results.json': json.dumps(as_json, indent=2), 'results.md': as_markdown(results)}
    for name, text in texts.items():
        with atomic_write(folder / name) as unfinished:
            unfinished.write_text(f'{text}\n', encoding='utf-8')
