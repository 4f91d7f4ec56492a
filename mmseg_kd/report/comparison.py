"""What the page shows of a comparison over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmseg_kd.report.chart import Chart, Series, line_chart
from mmseg_kd.report.curves import COLOURS, colours_of
from mmseg_kd.report.run import Run
from mmseg_kd.report.text import number, signed
from mmseg_kd.runs.comparison import METRIC, is_comparison, read_comparison
from mmseg_kd.runs.results import HEAD, VALIDATION_HEAD, Results, cells, collect, validation_cells
from mmseg_kd.runs.results_figures import mean_curve
from mmseg_kd.runs.statistics import Estimate
from mmseg_kd.runs.work_dir import split_title


@dataclass(frozen=True)
class Compared:
    """A comparison.

    Attributes:
        name: Its title, or that of its folder.
        seed: Whose networks the other sections show.
        results: Of all seeds.
        colours: The page's class of each method's colour.
        total, open: How many runs it has, and how many of them have no result yet.
    """

    name: str
    seed: int
    results: Results
    colours: Mapping[str, str]
    total: int
    open: int

    # Titles of the columns of the table, and of that of the validations.
    head, validation_head = HEAD, VALIDATION_HEAD

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """The table."""
        return [cells(row) for row in self.results.rows]

    @property
    def validation_rows(self) -> list[tuple[str, ...]]:
        """The last validations; none where they are of the test's images."""
        return validation_cells(self.results.rows)

    @property
    def class_head(self) -> list[str]:
        """The methods that have gains by class."""
        return [row.method for row in self.results.rows if row.class_gains]

    @property
    def class_rows(self) -> list[tuple[str, list[Estimate | None]]]:
        """Classes and the gain of each method."""
        rows = [row for row in self.results.rows if row.class_gains]
        names = dict.fromkeys(name for row in rows for name in row.class_gains)
        return [(name, [row.class_gains.get(name) for row in rows]) for name in names]

    @property
    def charts(self) -> list[Chart]:
        """mIoU over iterations and over time, as means with bands of a deviation."""
        by_iteration: list[Series] = []
        by_time: list[Series] = []
        for row in self.results.rows:
            found = mean_curve(row)
            if found is None:
                continue
            iterations, y = found.mean.iterations.tolist(), found.mean.values.tolist()
            spread = found.deviation.tolist() if found.count > 1 else []
            minutes = [one / 60 for one in row.elapsed_s(iterations) or ()]
            for series, x in ((by_iteration, iterations), (by_time, minutes)):
                if x:
                    band = [(a, b - c, b + c) for a, b, c in zip(x, y, spread, strict=False)]
                    points = list(zip(x, y, strict=True))
                    colour = self.colours[row.method]
                    series.append(Series(row.method, colour, points, markers=True, band=band))
        unit = 'percent, mean ± standard deviation'
        title = f'{METRIC} over seeds'
        charts = (
            line_chart('over-seeds', title, by_iteration, unit),
            line_chart('over-time', f'{title}, by time', by_time, unit, x_name='minute'),
        )
        return [chart for chart in charts if chart is not None]

    def headline(self) -> tuple[str, str]:
        """A title and a sentence: what the best method gains, or what there is instead."""
        rows = [(row, row.gain) for row in self.results.rows if row.gain is not None]
        base = next((row.method for row in self.results.rows if row.is_baseline), None)
        if not rows or base is None:
            return 'No result yet', f'No method of {self.name} has a result beside its baseline.'
        # What can be told comes before what may be chance.
        row, gain = max(rows, key=lambda one: (_is_better(one[1]), one[1].mean))
        points = f'{signed(gain.mean)} points'
        if gain.low is None:
            title = f'{row.method}: {points} to {base}, with a single seed'
            return title, 'A single seed has no interval: nothing says what another would give.'
        interval = f'95 % interval {signed(gain.low)} to {signed(gain.high)}'
        sentence = f'{points}, {interval}, over {gain.seeds} seeds.'
        if not _is_better(gain):
            if len(rows) > 1:
                title = f'No method is seen to be better than {base}'
                return title, f'{row.method} gains most: {sentence}'
            return f'{row.method} is {row.verdict}', sentence
        if row.share is not None:
            share = number(100 * row.share.mean, 0)
            sentence += f' {share} % of the gap to the teacher is closed.'
        return f'{row.method} gains {number(gain.mean)} points on {base}', sentence


def _is_better(gain: Estimate) -> bool:
    return gain.is_distinguishable and gain.mean > 0


def read_compared(names: Sequence[str], runs: Sequence[Run]) -> list[Compared]:
    """The comparisons among the folders of a report.

    Args:
        names: Folders, as on the command line.
        runs: What was read of them.
    """
    found = []
    of_runs = colours_of(runs)
    for title, folder in map(split_title, names):
        if not is_comparison(folder):
            continue
        comparison = read_comparison(folder)
        all_runs = comparison.runs()
        colours = {
            method: of_runs.get(method, f'c{index % COLOURS}')
            for index, method in enumerate(comparison.methods)
        }
        waiting = sum(run.metrics() is None for run in all_runs)
        results = collect(comparison)
        name = title or Path(folder).resolve().name
        found.append(Compared(name, comparison.seeds[0], results, colours, len(all_runs), waiting))
    return found
