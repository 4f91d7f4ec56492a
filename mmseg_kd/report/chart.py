"""Line charts: from points to what a template draws.

All positions are percent of the plot's width and height, from its upper left corner, so that the
page scales a plot and leaves its text alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mmseg_kd.report.text import brief, iterations

Points = Sequence[tuple[float, float]]

# A curve is drawn with no more points than a screen shows.
MOST_POINTS = 300
MOST_ROWS = 40
# And its points are marked where they are few.
MOST_MARKS = 60
# The least distance of two labels at the end of curves, in percent of the height.
LABEL_GAP = 7.5
# From this ratio of the largest to the smallest value on, values are on a logarithmic axis.
LOGARITHMIC = 40.0


@dataclass(frozen=True)
class Series:
    """A curve.

    Attributes:
        label: Its name.
        colour: The page's class of its colour.
        points: (iteration, value), in ascending order.
        dash: Which pattern, 0 for none.
        markers: Whether its points are marked.
        band: (iteration, lower, upper value) of an area around it.
    """

    label: str
    colour: str
    points: Points
    dash: int = 0
    markers: bool = False
    band: Sequence[tuple[float, float, float]] = ()


@dataclass(frozen=True)
class Reference:
    """A horizontal line: a value that does not change."""

    label: str
    colour: str
    value: float


@dataclass
class Chart:
    """What a template draws.

    Attributes:
        name: Its identifier on the page.
        title, unit: Above the plot.
        x_ticks, y_ticks: (percent, text).
        curves: Colour, dash, path in percent, marked points and band, of each series.
        references: Label, colour and percent.
        labels: Label, colour and percent, spread so that none lies on another.
        data: What the readout shows: names, colours, iterations, values, positions.
        head, rows: The table.
        thinned: Whether the table leaves points of the plot out.
        logarithmic: The y axis.
        mean_of: How many logged values a point stands for, at most.
        x_name: What the x axis counts.
    """

    name: str
    title: str
    unit: str
    x_ticks: list[tuple[float, str]] = field(default_factory=list)
    y_ticks: list[tuple[float, str]] = field(default_factory=list)
    curves: list[dict[str, Any]] = field(default_factory=list)
    references: list[dict[str, Any]] = field(default_factory=list)
    labels: list[dict[str, Any]] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    head: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    thinned: bool = False
    logarithmic: bool = False
    mean_of: int = 1
    x_name: str = 'iteration'

    @property
    def summary(self) -> str:
        """The chart in a sentence, for those who do not see it."""
        parts = [f'{name}: {ends}' for name, ends in self.data['ends'].items()]
        return f'{self.title}. ' + '; '.join(parts) + '.'


def line_chart(
    name: str,
    title: str,
    series: Sequence[Series],
    unit: str = '',
    references: Sequence[Reference] = (),
    end: float = 0,
    from_zero: bool = False,
    x_name: str = 'iteration',
) -> Chart | None:
    """A chart of some curves over the iterations; None where there is no point to draw.

    Args:
        name: Its identifier on the page.
        title, unit: Above the plot.
        series: Those without points are left out, and those with the same points become one.
        references: Horizontal lines.
        end: The last iteration that the axis shows at least.
        from_zero: Whether the y axis begins at 0.
        x_name: What the x axis counts.
    """
    series = _merged([one for one in series if one.points])
    if not series:
        return None
    thin = [thinned(one.points) for one in series]
    values = [y for points in thin for _, y in points] + [
        reference.value for reference in references
    ]
    values += [y for one in series for _, *ends in one.band for y in ends]
    x_end = max(end, *(points[-1][0] for points in thin), 1)
    logarithmic = not from_zero and min(values) > 0 and max(values) / min(values) > LOGARITHMIC
    low, high, ticks = _axis(min(values), max(values), logarithmic, from_zero)

    def x_of(x: float) -> float:
        return round(100 * x / x_end, 2)

    def y_of(y: float) -> float:
        if logarithmic:
            y, a, b = math.log10(y), math.log10(low), math.log10(high)
        else:
            a, b = low, high
        return round(100 - 100 * (y - a) / (b - a), 2)

    mean_of = max(math.ceil(len(one.points) / MOST_POINTS) for one in series)
    chart = Chart(name, title, unit, logarithmic=logarithmic, mean_of=mean_of, x_name=x_name)
    step = nice_step(x_end / 6)
    chart.x_ticks = [
        (x_of(i * step), iterations(i * step)) for i in range(int(x_end / step + 1e-9) + 1)
    ]
    chart.y_ticks = [(y_of(tick), brief(tick)) for tick in ticks]
    for one, points in zip(series, thin, strict=True):
        placed = [(x_of(x), y_of(y)) for x, y in points]
        path = 'M' + 'L'.join(f'{x:g} {y:g}' for x, y in placed)
        marked = placed if (one.markers and len(placed) <= MOST_MARKS) or len(placed) == 1 else []
        edge = [(x, high) for x, _, high in one.band]
        edge += [(x, low) for x, low, _ in reversed(one.band)]
        band = 'L'.join(f'{x_of(x):g} {y_of(y):g}' for x, y in edge)
        chart.curves.append(
            dict(colour=one.colour, dash=one.dash, path=path, markers=marked, band=band)
        )
    lines = [(one.label, one.colour, y_of(one.value)) for one in references]
    chart.references = [dict(label=label, colour=colour, y=y) for label, colour, y in lines]
    ends = [
        (one.label, one.colour, y_of(pts[-1][1])) for one, pts in zip(series, thin, strict=True)
    ]
    chart.labels = _spread([*ends, *lines])
    _fill_table(chart, series, thin, references, x_of, y_of)
    return chart


def _merged(series: Sequence[Series]) -> list[Series]:
    """Series with the same points as one, by all their names."""
    result: list[Series] = []
    for one in series:
        for index, other in enumerate(result):
            if list(other.points) == list(one.points):
                result[index] = replace(other, label=f'{other.label}, {one.label}')
                break
        else:
            result.append(one)
    if len(result) == 1 and len(series) > 2:
        result = [replace(result[0], label=f'all {len(series)}')]
    return result


def thinned(points: Points, most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """At most `most` points: of every stretch its last iteration and the mean of its values."""
    if len(points) <= most:
        return list(points)
    size = math.ceil(len(points) / most)
    stretches = [points[i : i + size] for i in range(0, len(points), size)]
    return [(one[-1][0], sum(y for _, y in one) / len(one)) for one in stretches]


def nice_step(step: float) -> float:
    """The next of 1, 2, 2.5, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(f * power for f in (1, 2, 2.5, 5, 10) if f * power >= step * (1 - 1e-9))


def _axis(
    low: float, high: float, logarithmic: bool, from_zero: bool
) -> tuple[float, float, list[float]]:
    """Ends of the y axis and its ticks."""
    if logarithmic:
        begin, end = math.floor(math.log10(low)), math.ceil(math.log10(high))
        factors = (1.0,) if end - begin > 3 else (1.0, 2.0, 5.0)
        # One power further each way: a logarithm may be rounded to the next whole number.
        all_ticks = [f * 10.0**e for e in range(begin - 1, end + 2) for f in factors]
        first = max(t for t in all_ticks if t <= low)
        last = min(t for t in all_ticks if t >= high)
        return first, last, [t for t in all_ticks if first <= t <= last]
    if from_zero:
        low = min(low, 0.0)
    # Values that differ by rounding alone are one value.
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        low, high = (low - 1, high + 1) if not low else (min(low, 0.0), max(high, 0.0))
    step = nice_step((high - low) / 4)
    begin, end = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [float(f'{i * step:.12g}') for i in range(begin, end + 1)]
    return ticks[0], ticks[-1], ticks


def _spread(ends: Sequence[tuple[str, str, float]]) -> list[dict[str, Any]]:
    """Labels at the heights of their curves, moved apart where they are too close."""
    order = sorted(ends, key=lambda one: one[2])
    heights = [y for _, _, y in order]
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + LABEL_GAP)
    if heights and heights[-1] > 100:
        heights[-1] = 100.0
        for i in range(len(heights) - 2, -1, -1):
            heights[i] = min(heights[i], heights[i + 1] - LABEL_GAP)
    return [
        dict(label=label, colour=colour, y=round(y, 2))
        for (label, colour, _), y in zip(order, heights, strict=True)
    ]


def _fill_table(
    chart: Chart,
    series: Sequence[Series],
    thin: Sequence[Points],
    references: Sequence[Reference],
    x_of: Any,
    y_of: Any,
) -> None:
    """What the readout and the table show."""
    by_x = [dict(points) for points in thin]
    xs = sorted({x for points in by_x for x in points})
    chart.data = dict(
        names=[one.label for one in series] + [reference.label for reference in references],
        colours=[one.colour for one in series] + [reference.colour for reference in references],
        x=xs,
        left=[x_of(x) for x in xs],
        values=[[brief(points[x]) if x in points else None for x in xs] for points in by_x]
        + [[brief(reference.value)] * len(xs) for reference in references],
        top=[[y_of(points[x]) if x in points else None for x in xs] for points in by_x],
        ends={
            one.label: f'{brief(points[0][1])} at {chart.x_name} {points[0][0]:g}, '
            f'{brief(points[-1][1])} at {points[-1][0]:g}'
            for one, points in zip(series, thin, strict=True)
        }
        | {reference.label: brief(reference.value) for reference in references},
    )
    chart.data['x_name'] = chart.x_name
    chart.head = [chart.x_name, *(one.label for one in series)]
    stride = math.ceil(len(xs) / MOST_ROWS)
    rows = xs[::stride] if not xs or xs[-1] in xs[::stride] else [*xs[::stride], xs[-1]]
    chart.thinned = stride > 1
    chart.rows = [
        [f'{x:g}', *(brief(points[x]) if x in points else '' for points in by_x)] for x in rows
    ]
