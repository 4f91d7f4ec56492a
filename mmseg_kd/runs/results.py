"""What a comparison has found, from what its runs left in their folders."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmseg_kd.checkpoints.save import atomic_write
from mmseg_kd.errors import LogError
from mmseg_kd.runs.comparison import FAILED, METRIC, Comparison, Run
from mmseg_kd.runs.log import RunLog, read_log
from mmseg_kd.runs.markdown import markdown_table
from mmseg_kd.runs.statistics import CONFIDENCE, Estimate, estimate, paired_gain, share_of_gap
from mmseg_kd.runs.step_time import elapsed_s, step_s

# By class: values by seed.
_BySeed = Mapping[int, float]


@dataclass(frozen=True)
class Row:
    """A method over its seeds.

    Attributes:
        method: Its name.
        values: Its metric on the test split, in percent, by seed.
        gain: Above the baseline; None of the baseline itself, and before that has a seed too.
        share: Of the gap to the teacher that the gain closes; None where there is none.
        iterations: That a training made.
        step_s: Seconds of a step; None where none was logged.
        peak_mib: The most memory of the GPU; None on a CPU.
        classes: Mean IoU by class, in percent.
        class_gains: The gain of each class.
        is_baseline: Whether it is what the others are measured against.
        validations: The metric of the validations on the way, in percent, by iteration and seed.
        validation_gain: Above the baseline in the last of them; None as `gain`.
        validation_share: Of the gap to the teacher there; None as `share`.
        logs: Of its trainings.
    """

    method: str
    values: dict[int, float]
    gain: Estimate | None
    share: Estimate | None
    iterations: int
    step_s: float | None
    peak_mib: float | None
    classes: dict[str, float]
    class_gains: dict[str, Estimate]
    is_baseline: bool
    validations: dict[int, dict[int, float]]
    validation_gain: Estimate | None
    validation_share: Estimate | None
    logs: Sequence[RunLog] = field(repr=False)

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return statistics.fmean(self.values.values())

    @property
    def deviation(self) -> float | None:
        """Of a sample; None of a single seed."""
        return _deviation(self.values)

    @property
    def last_validation(self) -> dict[int, float]:
        """The metric of the validation at the end, by seed."""
        return self.validations.get(self.iterations, {})

    def elapsed_s(self, iterations: Sequence[int]) -> list[float] | None:
        """Seconds of steps until each of the iterations, the mean over the seeds."""
        found = [elapsed_s(log, np.asarray(iterations), self.iterations) for log in self.logs]
        known = [one for one in found if one is not None]
        return np.mean(known, axis=0).tolist() if known else None

    @property
    def verdict(self) -> str:
        """In words, what the interval allows to say."""
        if self.is_baseline:
            return 'baseline'
        if self.gain is None:
            return 'no seed in common with the baseline yet'
        if self.gain.low is None:
            return 'a single seed, which has no interval'
        if not self.gain.is_distinguishable:
            return 'not distinguishable from the baseline'
        return 'better than the baseline' if self.gain.mean > 0 else 'worse than the baseline'


@dataclass(frozen=True)
class Results:
    """All that a comparison has measured until now.

    Attributes:
        teacher: The teacher's metric in percent; None where there is no teacher, or not yet.
        rows: The baseline first, then the others, the best first.
        left_out: Runs whose result is no number.
        teacher_validation: The teacher's in validation; None where that has the test's images.
        failed: Runs that have ended with an error.
    """

    teacher: float | None
    rows: Sequence[Row]
    left_out: Sequence[str] = ()
    teacher_validation: float | None = None
    failed: Sequence[str] = ()

    @property
    def warnings(self) -> list[str]:
        """What the figures must not be read without."""
        found = []
        if self.left_out:
            found.append(f'Left out, as their {METRIC} is no number: {"; ".join(self.left_out)}.')
        if self.failed:
            found.append(f'Failed, and missing here: {"; ".join(self.failed)}.')
        base = next((row for row in self.rows if row.is_baseline), None)
        if base is None or self.teacher is None:
            return found
        if self.teacher <= base.mean:
            found.append(
                f'The teacher ({self.teacher:.2f}) is no better than the baseline '
                f'({base.mean:.2f}): there is no gap to close, and it should be another teacher.'
            )
        elif self.teacher - base.mean <= (base.deviation or 0):
            found.append(
                f'The teacher is {self.teacher - base.mean:.2f} above the baseline, which spreads '
                f'by {base.deviation:.2f} over its seeds: no share of such a gap is told.'
            )
        return found


def collect(comparison: Comparison) -> Results:
    """The results of the runs that have come to their end."""
    done: dict[str, list[Run]] = {}
    values: dict[str, dict[int, float]] = {}
    teacher = teacher_validation = None
    left_out, failed = [], []
    for run in comparison.runs():
        metrics = run.metrics()
        if metrics is None:
            failed += [str(run)] if (run.folder / FAILED).exists() else []
            continue
        if not math.isfinite(metrics[METRIC]):
            left_out.append(str(run))
        elif run.seed is None:
            teacher, validation = metrics[METRIC], run.validation()
            if validation is not None and math.isfinite(validation[METRIC]):
                teacher_validation = validation[METRIC]
        else:
            done.setdefault(run.method, []).append(run)
            values.setdefault(run.method, {})[run.seed] = metrics[METRIC]
    classes = {method: _classes(runs) for method, runs in done.items()}
    logs = {method: _logs(runs) for method, runs in done.items()}
    validations = {method: _validations(found) for method, found in logs.items()}
    lasts = {name: found.get(comparison.methods[name], {}) for name, found in validations.items()}
    rows = []
    for method in done:
        # The baseline itself is measured against nothing.
        base = '' if method == comparison.baseline else comparison.baseline
        of_classes = classes.get(base, {})
        gains = {
            name: paired_gain(by_seed, of_classes.get(name, {}))
            for name, by_seed in classes[method].items()
        }
        all_logs = list(logs[method].values())
        rows.append(
            Row(
                method,
                values[method],
                *_gain_and_share(values[method], values.get(base, {}), teacher),
                comparison.methods[method],
                _step_s(all_logs),
                _peak_mib(all_logs),
                {name: estimate([*v.values()]).mean for name, v in classes[method].items()},
                {name: gain for name, gain in gains.items() if gain is not None},
                not base,
                validations[method],
                *_gain_and_share(lasts[method], lasts.get(base, {}), teacher_validation),
                all_logs,
            )
        )
    rows.sort(key=lambda row: (not row.is_baseline, -row.mean))
    return Results(teacher, rows, left_out, teacher_validation, failed)


def _gain_and_share(
    ours: _BySeed, baseline: _BySeed, teacher: float | None
) -> tuple[Estimate | None, Estimate | None]:
    """The gain above the baseline, and its share of the gap that this has in the gain's seeds.

    There is no share where the gap is no larger than what the baseline spreads by.
    """
    gain = paired_gain(ours, baseline)
    if gain is None or teacher is None:
        return gain, None
    if teacher - statistics.fmean(baseline.values()) <= (_deviation(baseline) or 0):
        return gain, None
    paired = [value for seed, value in baseline.items() if seed in ours]
    return gain, share_of_gap(gain, statistics.fmean(paired), teacher)


def _classes(runs: Sequence[Run]) -> dict[str, dict[int, float]]:
    """IoU by class and seed; of a class that a split lacks it is not finite."""
    found: dict[str, dict[int, float]] = {}
    for run in runs:
        for name, value in run.classes().items():
            if run.seed is not None and math.isfinite(value):
                found.setdefault(name, {})[run.seed] = value
    return found


def _logs(runs: Sequence[Run]) -> dict[int, RunLog]:
    found = {}
    for run in runs:
        assert run.seed is not None
        try:
            found[run.seed] = read_log(run.folder)
        except LogError:  # its figure counts without its curves
            continue
    return found


def _validations(logs: Mapping[int, RunLog]) -> dict[int, dict[int, float]]:
    found: dict[int, dict[int, float]] = {}
    for seed, log in logs.items():
        if METRIC in log.val:
            curve = log.val[METRIC]
            for iteration, value in zip(curve.iterations, curve.values, strict=True):
                if math.isfinite(value):
                    found.setdefault(int(iteration), {})[seed] = float(value)
    return dict(sorted(found.items()))


def _deviation(values: _BySeed) -> float | None:
    return statistics.stdev(values.values()) if len(values) > 1 else None


def _step_s(logs: Sequence[RunLog]) -> float | None:
    times = [one for log in logs if (one := step_s(log)) is not None]
    return statistics.median(times) if times else None


def _peak_mib(logs: Sequence[RunLog]) -> float | None:
    return max(
        (float(log.train['memory'].values.max()) for log in logs if 'memory' in log.train),
        default=None,
    )


VALIDATION_HEAD = ('method', 'seeds', METRIC, 'gain', '95 %', 'of the gap')
HEAD = (*VALIDATION_HEAD, 'ms / step', 'MiB', 'iterations', '')


def as_markdown(results: Results) -> str:
    """The table, and what is to be said of it."""
    lines = [markdown_table(HEAD, [cells(row) for row in results.rows])]
    if results.teacher is not None:
        lines.append(f'\nTeacher: {results.teacher:.2f}.')
    lines += _validation_table(results)
    lines += [f'\n**{warning}**' for warning in results.warnings]
    counts = sorted({len(row.values) for row in results.rows})
    if counts and counts[-1] > 1:
        seeds = ' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))
        lines.append(
            f'\nMean ± standard deviation over the seeds ({seeds}). Gains are of pairs of a seed, '
            f'with the {CONFIDENCE:.0%} interval of their mean (Student).'
        )
        tested = sum(row.gain is not None and row.gain.low is not None for row in results.rows)
        if tested > 1:
            lines.append(
                f'\nEach of the {tested} intervals is for its method alone: that one of so many '
                f'leaves out 0 by chance is likelier than {1 - CONFIDENCE:.0%}.'
            )
    elif counts:
        lines.append('\nOf a single seed: nothing says what another one would give.')
    return '\n'.join(lines)


def _validation_table(results: Results) -> list[str]:
    found = validation_cells(results.rows)
    if not found:
        return []
    lines = ['\nIn the last validation:\n', markdown_table(VALIDATION_HEAD, found)]
    if results.teacher_validation is not None:
        lines.append(f'\nTeacher: {results.teacher_validation:.2f}.')
    return lines


def validation_cells(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """The last validations, a text for each of `VALIDATION_HEAD`.

    There are none where those are of the test's images.
    """
    if not any(
        # Mixed precision moves a figure by less.
        abs(value - row.values[seed]) > 0.05
        for row in rows
        for seed, value in row.last_validation.items()
    ):
        return []
    return [
        (row.method, *_first_cells(row.last_validation, row.validation_gain, row.validation_share))
        for row in rows
        if row.last_validation
    ]


def cells(row: Row) -> tuple[str, ...]:
    """A row as the table has it, a text for each of `HEAD`."""
    step = '' if row.step_s is None else f'{row.step_s * 1e3:.0f}'
    peak = '' if row.peak_mib is None else f'{row.peak_mib:.0f}'
    cost = (step, peak, str(row.iterations))
    return (row.method, *_first_cells(row.values, row.gain, row.share), *cost, row.verdict)


def _first_cells(values: _BySeed, gain: Estimate | None, share: Estimate | None) -> tuple[str, ...]:
    seeds = str(len(values))
    if gain is not None and gain.seeds < len(values):
        seeds += f', {gain.seeds} paired'
    return (seeds, _mean(values), *_gain_cells(gain), _share_cell(share))


def _mean(values: _BySeed) -> str:
    deviation = _deviation(values)
    spread = '' if deviation is None else f' ± {deviation:.2f}'
    return f'{statistics.fmean(values.values()):.2f}{spread}'


def _gain_cells(gain: Estimate | None) -> tuple[str, str]:
    return ('', '') if gain is None else (f'{gain.mean:+.2f}', _interval(gain, '+.2f'))


def _share_cell(share: Estimate | None) -> str:
    if share is None:
        return ''
    return f'{share.mean:.0%}' + ('' if share.low is None else f' ({_interval(share, ".0%")})')


def _interval(one: Estimate, form: str) -> str:
    if one.low is None or one.high is None:
        return ''
    return f'{one.low:{form}} to {one.high:{form}}'


def _as_dict(row: Row) -> dict[str, Any]:
    values = {name: getattr(row, name) for name in ('method', 'values', 'mean', 'deviation')}
    for name in ('gain', 'share', 'validation_gain', 'validation_share'):
        one: Estimate | None = getattr(row, name)
        values[name] = None if one is None else asdict(one)
    for name in ('validations', 'verdict', 'iterations', 'step_s', 'peak_mib', 'classes'):
        values[name] = getattr(row, name)
    values['class_gains'] = {name: asdict(one) for name, one in row.class_gains.items()}
    return values


def as_json(results: Results) -> str:
    """All figures, in percent and seconds, to six digits; null where there is none."""
    whole = dict(
        teacher=results.teacher,
        teacher_validation=results.teacher_validation,
        warnings=results.warnings,
        failed=results.failed,
        methods=[_as_dict(row) for row in results.rows],
    )
    return json.dumps(_to_six_digits(whole), indent=2)


def _to_six_digits(value: Any) -> Any:
    """Floats without the tail of those that were float32 in a log."""
    if isinstance(value, Mapping):
        return {key: _to_six_digits(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_six_digits(one) for one in value]
    return float(f'{value:.6g}') if isinstance(value, float) else value


def as_csv(results: Results) -> str:
    """A line for each method; empty where there is no figure."""
    lines = []
    for row in results.rows:
        line: dict[str, Any] = {'method': row.method, 'seeds': len(row.values)}
        line['pairs'] = row.gain.seeds if row.gain else None
        line |= _columns('', row.values, row.gain, row.share)
        line |= _columns(
            'validation_', row.last_validation, row.validation_gain, row.validation_share
        )
        line |= {'step_s': row.step_s, 'peak_mib': row.peak_mib, 'iterations': row.iterations}
        lines.append(_to_six_digits({**line, 'verdict': row.verdict}))
    table = io.StringIO()
    writer = csv.DictWriter(table, list(lines[0]) if lines else [], lineterminator='\n')
    writer.writeheader()
    writer.writerows(lines)
    return table.getvalue().rstrip('\n')


def _columns(
    prefix: str, values: _BySeed, gain: Estimate | None, share: Estimate | None
) -> dict[str, float | None]:
    columns = {
        f'{prefix}{METRIC}': statistics.fmean(values.values()) if values else None,
        f'{prefix}deviation': _deviation(values),
    }
    for name, one in ((f'{prefix}gain', gain), (f'{prefix}share_of_gap', share)):
        mean, low, high = (one.mean, one.low, one.high) if one else (None, None, None)
        columns |= {name: mean, f'{name}_low': low, f'{name}_high': high}
    return columns


def write(results: Results, folder: Path) -> None:
    """Write `results.json`, `results.csv` and `results.md`."""
    for form, make in {'json': as_json, 'csv': as_csv, 'md': as_markdown}.items():
        with atomic_write(folder / f'results.{form}') as unfinished:
            unfinished.write_text(f'{make(results)}\n', encoding='utf-8')
