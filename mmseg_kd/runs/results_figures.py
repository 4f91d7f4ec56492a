"""Pictures of a comparison: mIoU over iterations and over time, and gains by class."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mmseg_kd.checkpoints.save import atomic_write
from mmseg_kd.errors import LogError
from mmseg_kd.runs.comparison import METRIC
from mmseg_kd.runs.curves import Band, Group, band
from mmseg_kd.runs.results import Results, Row
from mmseg_kd.runs.statistics import CONFIDENCE

CURVES, CLASSES = 'curves.png', 'classes.png'
UNITS = (('hours', 3600), ('minutes', 60), ('seconds', 1))


def draw_results(results: Results, folder: Path) -> list[Path]:
    """Write `curves.png` and, where there are gains by class, `classes.png`; returns their paths.

    Raises:
        CheckpointError: One cannot be written.
    """
    pictures = {CURVES: _curves(results), CLASSES: _classes(results)}
    written = []
    for name, figure in pictures.items():
        if figure is not None:
            with atomic_write(folder / name) as unfinished:
                figure.savefig(unfinished, format='png', dpi=150)
            written.append(folder / name)
    return written


def mean_curve(row: Row) -> Band | None:
    """mIoU of a method's validations over its seeds; None where they have none in common."""
    try:
        return band(Group(row.method, row.logs), METRIC)
    except LogError:
        return None


def _curves(results: Results) -> Figure | None:
    bands = {row.method: found for row in results.rows if (found := mean_curve(row)) is not None}
    if not bands:
        return None
    figure = Figure(figsize=(11, 4.2 + 0.2 * len(bands)), layout='constrained')
    by_iteration, by_time = figure.subplots(1, 2, sharey=True)
    lines: dict[str, Line2D] = {}
    times = [row.step_s * row.iterations for row in results.rows if row.step_s is not None]
    unit, seconds = next(one for one in UNITS if max(times, default=0) > 2 * one[1] or one[1] == 1)
    for index, row in enumerate(results.rows):
        if row.method not in bands:
            continue
        label = row.method if len(row.values) == 1 else f'{row.method} ({len(row.values)} seeds)'
        lines[label] = _draw(by_iteration, bands[row.method], 1.0, index)
        if row.step_s is not None:
            _draw(by_time, bands[row.method], row.step_s / seconds, index)
    by_iteration.set_xlabel('iteration')
    by_time.set_xlabel(f'{unit} of training steps')
    by_iteration.set_ylabel(f'{METRIC} in validation')
    for axes in (by_iteration, by_time):
        axes.grid(alpha=0.3)
        axes.spines[['top', 'right']].set_visible(False)
    figure.legend([*lines.values()], [*lines], loc='outside upper left', frameon=False)
    return figure


def _draw(axes: Axes, found: Band, scale: float, index: int) -> Line2D:
    x, y = found.mean.iterations * scale, found.mean.values
    colour = f'C{index % 10}'
    [line] = axes.plot(x, y, marker='os^Dv'[index % 5], markersize=4, linewidth=1.8, color=colour)
    if found.count > 1:
        low, high = y - found.deviation, y + found.deviation
        axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
    return line


def _classes(results: Results) -> Figure | None:
    """Gains by class, a row each, with their intervals."""
    rows = [row for row in results.rows if row.class_gains]
    if not rows:
        return None
    names = list(rows[0].class_gains)
    height = 1.4 + len(names) * (0.12 + 0.16 * len(rows)) + 0.2 * len(rows)
    figure = Figure(figsize=(8, height), layout='constrained')
    axes = figure.subplots()
    for index, row in enumerate(rows):
        known = [
            (place, row.class_gains[n]) for place, n in enumerate(names) if n in row.class_gains
        ]
        offset = 0.7 * ((index + 0.5) / len(rows) - 0.5)
        reach = [0.0 if one.high is None else one.high - one.mean for _, one in known]
        axes.barh(
            [place + offset for place, _ in known],
            [one.mean for _, one in known],
            0.7 / len(rows),
            xerr=reach if any(reach) else None,
            label=row.method,
            # The baseline has the first colour of the curves.
            color=f'C{results.rows.index(row) % 10}',
            error_kw=dict(linewidth=1),
        )
    axes.axvline(0, color='black', linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    interval = f', with {CONFIDENCE:.0%} intervals' if len(rows[0].values) > 1 else ''
    axes.set_xlabel(f'IoU above the baseline, points{interval}')
    axes.grid(axis='x', alpha=0.3)
    axes.spines[['top', 'right']].set_visible(False)
    figure.legend(loc='outside upper left', frameon=False)
    return figure
