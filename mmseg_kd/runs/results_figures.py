"""Pictures of a comparison: mIoU over iterations and over time, and gains by class."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from mmseg_kd.checkpoints.save import atomic_write
from mmseg_kd.runs.comparison import METRIC
from mmseg_kd.runs.curves import Band, band_of, draw_band, style_axes
from mmseg_kd.runs.log import Curve
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
    by_seed: dict[int, dict[int, float]] = {}
    for iteration, values in row.validations.items():
        for seed, value in values.items():
            by_seed.setdefault(seed, {})[iteration] = value
    curves = [Curve(np.array([*one]), np.array([*one.values()])) for one in by_seed.values()]
    return band_of(curves) if curves else None


def _curves(results: Results) -> Figure | None:
    bands = {row.method: found for row in results.rows if (found := mean_curve(row)) is not None}
    if not bands:
        return None
    labels = {
        row.method: f'{row.method} ({len(row.values)} seeds)' if len(row.values) > 1 else row.method
        for row in results.rows
        if row.method in bands
    }
    figure = _figure(11, 4.2, labels.values())
    by_iteration, by_time = figure.subplots(1, 2, sharey=True)
    times = [row.step_s * row.iterations for row in results.rows if row.step_s is not None]
    unit, seconds = next(one for one in UNITS if max(times, default=0) > 2 * one[1] or one[1] == 1)
    for index, row in enumerate(results.rows):
        if row.method not in bands:
            continue
        found = bands[row.method]
        iterations = found.mean.iterations.tolist()
        draw_band(by_iteration, found, iterations, index).set_label(labels[row.method])
        if (elapsed := row.elapsed_s(iterations)) is not None:
            draw_band(by_time, found, [one / seconds for one in elapsed], index)
    by_iteration.set_xlabel('iteration')
    by_time.set_xlabel(f'{unit} of training steps')
    by_iteration.set_ylabel(f'{METRIC} in validation')
    style_axes(by_iteration)
    style_axes(by_time)
    _add_legend(figure)
    return figure


def _classes(results: Results) -> Figure | None:
    """Gains by class, a row each, with their intervals."""
    rows = [row for row in results.rows if row.class_gains]
    if not rows:
        return None
    names = list(dict.fromkeys(name for row in rows for name in row.class_gains))
    height = 1.0 + len(names) * (0.12 + 0.16 * len(rows))
    figure = _figure(8, height, [row.method for row in rows])
    axes = figure.subplots()
    for index, row in enumerate(rows):
        known = [
            (place, row.class_gains[n]) for place, n in enumerate(names) if n in row.class_gains
        ]
        offset = 0.7 * ((index + 0.5) / len(rows) - 0.5)
        # A bar without an interval has no mark of one.
        reach = [np.nan if one.high is None else one.high - one.mean for _, one in known]
        axes.barh(
            [place + offset for place, _ in known],
            [one.mean for _, one in known],
            0.7 / len(rows),
            xerr=reach,
            label=row.method if np.isfinite(reach).any() else f'{row.method} (no interval)',
            # The baseline has the first colour of the curves.
            color=f'C{results.rows.index(row) % 10}',
            error_kw=dict(linewidth=1),
        )
    axes.axvline(0, color='black', linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    has_intervals = any(one.low is not None for row in rows for one in row.class_gains.values())
    interval = f', with {CONFIDENCE:.0%} intervals' if has_intervals else ''
    axes.set_xlabel(f'IoU above the baseline, points{interval}')
    style_axes(axes, 'x')
    _add_legend(figure)
    return figure


def _figure(width: float, height: float, labels: Collection[str]) -> Figure:
    """One in inches, with room above for a legend."""
    legend_height = 0.2 * -(-len(labels) // _columns(width, labels))
    return Figure(figsize=(width, height + legend_height), layout='constrained')


def _add_legend(figure: Figure) -> None:
    _, labels = figure.axes[0].get_legend_handles_labels()
    columns = _columns(figure.get_figwidth(), labels)
    figure.legend(ncols=columns, loc='outside upper left', frameon=False, columnspacing=1.5)


def _columns(width: float, labels: Collection[str]) -> int:
    # A letter is some 0.08 inches wide.
    return max(1, int(width / (0.7 + 0.08 * max(map(len, labels)))))
