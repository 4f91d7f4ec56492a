"""Curves of several runs: grouped over seeds, as figures and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import takewhile
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mmseg_kd.errors import LogError, Problems, nearest
from mmseg_kd.runs.log import Curve, RunLog, experiment_of, read_log, seed_of
from mmseg_kd.runs.work_dir import split_title

# A curve of no more points than these shows them.
MARKED = 25


@dataclass(frozen=True)
class Group:
    """Runs that are shown as one.

    Attributes:
        name: What it is called.
        runs: Of one config with different seeds, or whatever the user put together.
    """

    name: str
    runs: Sequence[RunLog]


@dataclass(frozen=True)
class Band:
    """A value over several runs, at the iterations that all of them have.

    Attributes:
        mean: Over the runs.
        deviation: The standard deviation of a sample; 0 for one run.
        count: How many runs.
    """

    mean: Curve
    deviation: npt.NDArray[np.float64]
    count: int


def read_groups(names: Sequence[str]) -> list[Group]:
    """The runs called RUN or NAME=RUN,RUN,... in groups, those with a name first.

    Raises:
        LogError: A run has no log, or two groups the same name.
        ConfigError: A NAME=RUN lacks one of them; `ManyErrors` where more than one thing is wrong.
    """
    problems = Problems()
    groups: list[Group] = []
    alone: list[RunLog] = []

    def read(paths: Sequence[str]) -> list[RunLog]:
        found = []
        for path in paths:
            with problems:
                found.append(read_log(path))
        return found

    for word in names:
        with problems:
            name, paths = split_title(word)
            if name is None:
                alone += read([word])
            elif name in [group.name for group in groups]:
                raise LogError(f'two groups are called {name!r}; expected a NAME for each.')
            else:
                groups.append(Group(name, read(paths.split(','))))
    problems.raise_if_any()
    return groups + grouped(alone)


def grouped(runs: Sequence[RunLog]) -> list[Group]:
    """Runs of one config with different seeds make a group, in the order of the first of each."""
    found: list[list[RunLog]] = []
    for run in runs:
        experiment, seed = experiment_of(run), seed_of(run)
        for group in found:
            is_same = experiment is not None and experiment == experiment_of(group[0])
            if is_same and (seed is None or seed not in map(seed_of, group)):
                group.append(run)
                break
        else:
            found.append([run])
    names = [_name(group) for group in found]
    return [
        # Folders of the same name are told apart by their paths.
        Group(name if names.count(name) == 1 else str(group[0].folder), group)
        for name, group in zip(names, found, strict=True)
    ]


def _name(runs: Sequence[RunLog]) -> str:
    """What the folders' names begin with alike, without what then numbers them."""
    names = [run.folder.resolve().name for run in runs]
    alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    shared = ''.join(letters[0] for letters in alike)
    if len(names) > 1:
        shared = shared.rstrip('0123456789').rstrip('_-.').removesuffix('seed').rstrip('_-.')
    return shared or names[0]


def full_name(key: str, runs: Sequence[RunLog]) -> str:
    """The name of a curve of any of the runs: `key`, or the one that ends in it, as '.loss_ce'.

    Raises:
        LogError: There is none, or more than one.
    """
    names = {name for run in runs for name in (*run.val, *run.train)}
    if key in names:
        return key
    ending = sorted(name for name in names if name.endswith(f'.{key}'))
    if len(ending) == 1:
        return ending[0]
    if ending:
        raise LogError(f'{key!r} may be any of {", ".join(ending)}; give the whole name.')
    raise LogError(f'nothing was logged as {key!r}; {nearest(key, sorted(names))}.')


def band(group: Group, name: str) -> Band | None:
    """A value of a group over its runs; None where none of them has it.

    Raises:
        LogError: The runs that have it share no iteration.
    """
    curves = _curves(group, name)
    if not curves:
        return None
    found = band_of(curves)
    if found is None:
        raise LogError(f'{group.name}: its runs share no iteration at which {name} was logged.')
    return found


def band_of(curves: Sequence[Curve]) -> Band | None:
    """One or more curves as a band; None where they share no iteration."""
    shared = reduce(np.intersect1d, [curve.iterations for curve in curves])
    if not shared.size:
        return None
    values = np.stack([c.values[np.isin(c.iterations, shared)] for c in curves])
    deviation = values.std(axis=0, ddof=1) if len(curves) > 1 else np.zeros(shared.size)
    return Band(Curve(shared, values.mean(axis=0)), deviation, len(curves))


def draw_curves(groups: Sequence[Group], names: Sequence[str], path: Path) -> None:
    """Write a picture: a row for each name, a colour for each group, a band for its deviation.

    Its format is that of the ending of `path`.

    Raises:
        LogError: As `band`.
    """
    figure = Figure(figsize=(8, 1 + 2.8 * len(names) + 0.2 * len(groups)), layout='constrained')
    rows = figure.subplots(len(names), sharex=True, squeeze=False)[:, 0]
    shown: dict[str, Line2D] = {}
    for axes, name in zip(rows, names, strict=True):
        for index, group in enumerate(groups):
            found = band(group, name)
            if found is None:
                continue
            x = found.mean.iterations
            label = group.name if len(group.runs) == 1 else f'{group.name} ({len(group.runs)} runs)'
            shown.setdefault(label, draw_band(axes, found, x.tolist(), index, x.size <= MARKED))
        axes.set_ylabel(name)
        style_axes(axes)
    rows[-1].set_xlabel('iteration')
    figure.align_ylabels()
    # Names of runs are long: one a line, over the curves.
    figure.legend(shown.values(), shown.keys(), loc='outside upper left', frameon=False)
    figure.savefig(path, dpi=150)


def draw_band(
    axes: Axes, found: Band, x: Sequence[float], index: int, is_marked: bool = True
) -> Line2D:
    """Draw a line for the mean and, of more than one run, an area for the deviation.

    Args:
        axes: Where.
        found: What.
        x: The place of each value: its iteration, or its time.
        index: Of the curve among all: what it is told apart by.
        is_marked: Whether its points are.
    """
    y = found.mean.values
    colour = f'C{index % 10}'
    # No two of fifty curves have both in common.
    marker = 'os^Dv'[(index + index // 10) % 5] if is_marked else ''
    [line] = axes.plot(x, y, marker=marker, markersize=4, linewidth=1.8, color=colour)
    if found.count > 1:
        low, high = y - found.deviation, y + found.deviation
        axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
    return line


def style_axes(axes: Axes, grid: Literal['both', 'x', 'y'] = 'both') -> None:
    """A pale grid, and no frame above and on the right."""
    axes.grid(axis=grid, alpha=0.3)
    axes.spines[['top', 'right']].set_visible(False)


def summary(groups: Sequence[Group], name: str) -> list[tuple[str, str, str, str]]:
    """Rows of group, best and last value as mean ± deviation (runs), and the last iteration."""
    return [(group.name, *_cells(_curves(group, name))) for group in groups]


def _curves(group: Group, name: str) -> list[Curve]:
    return [curve for run in group.runs if (curve := run.curve(name)) is not None]


def _cells(curves: Sequence[Curve]) -> tuple[str, str, str]:
    if not curves:
        return '-', '-', '-'
    ends = sorted({int(curve.iterations[-1]) for curve in curves})
    return (
        mean_and_std([curve.best for curve in curves]),
        mean_and_std([curve.last for curve in curves]),
        ', '.join(map(str, ends)),
    )


def mean_and_std(values: Sequence[float]) -> str:
    """Values as 'mean ± standard deviation of the sample (how many)'; one as it is."""
    if len(values) == 1:
        return f'{values[0]:.2f}'
    return f'{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f} ({len(values)})'
