"""IoU by class of all runs, with what it differs by, and what classes are confused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmseg_kd.report.pictures import data_uri
from mmseg_kd.report.run import BASELINE, STUDENT, TEACHER, Run

# Up to so many classes a confusion is a table of numbers; beyond, a picture that is read with the
# pointer or the arrow keys.
MOST_CELLS = 24
PAIRS = 12
# The picture's blue for errors and grey for what is right, which show on white and on black.
INK = (70, 130, 220)
GREY = 128


@dataclass(frozen=True)
class ClassRow:
    """A line of the table of classes.

    Attributes:
        name: Of the class.
        colour: As CSS has it; None: not known.
        share: Of the annotated pixels, in percent; None: not known.
        iou: In percent, by run; None where a run does not have it.
        deltas: As `delta_columns` lists them.
    """

    name: str
    colour: str | None
    share: float | None
    iou: list[float | None]
    deltas: list[float | None]


@dataclass(frozen=True)
class ClassTable:
    """IoU by class.

    Attributes:
        runs: Columns.
        deltas: (run, what it is compared with).
        rows: One a class.
        mean: The mean over the classes, as a row.
    """

    runs: list[Run]
    deltas: list[tuple[str, str]]
    rows: list[ClassRow]
    mean: ClassRow


def class_table(runs: Sequence[Run]) -> ClassTable | None:
    """IoU by class of the runs that have the first one's classes; None where none has any.

    The others are said to have other classes.
    """
    having = [run for run in runs if run.iou]
    if not having:
        return None
    names = list(having[0].iou)
    for run in [r for r in having if list(r.iou) != names]:
        run.add_gap(
            'classes',
            f'It has other classes than {having[0].title} ({len(run.iou)}, beginning with '
            f'{next(iter(run.iou))}) and is not compared class by class.',
        )
    having = [run for run in having if list(run.iou) == names]
    pairs = _compared(having)
    measured = next((run.measured for run in having if run.measured is not None), None)
    shares: list[float | None] = [None] * len(names)
    colours: list[str | None] = [None] * len(names)
    if measured is not None:
        pixels = measured.confusion.sum(1)
        shares = [100 * float(count) / max(1, int(pixels.sum())) for count in pixels]
        colours = [css_colour(colour) for colour in measured.palette]
    rows = []
    for index, name in enumerate(names):
        iou = [_finite(run.iou[name]) for run in having]
        deltas = [_minus(_finite(a.iou[name]), _finite(b.iou[name])) for a, b in pairs]
        rows.append(ClassRow(name, colours[index], shares[index], iou, deltas))
    means = {run.title: _mean(run) for run in having}
    mean = ClassRow(
        'mean',
        None,
        None,
        [means[run.title] for run in having],
        [_minus(means[a.title], means[b.title]) for a, b in pairs],
    )
    return ClassTable(having, [(a.title, b.title) for a, b in pairs], rows, mean)


def _compared(runs: Sequence[Run]) -> list[tuple[Run, Run]]:
    """Each student against the best baseline and the best teacher."""
    result = []
    for role in (BASELINE, TEACHER):
        others = [run for run in runs if run.role == role]
        if others:
            other = max(others, key=lambda run: run.miou or 0)
            result += [(run, other) for run in runs if run.role == STUDENT]
    return result


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _mean(run: Run) -> float | None:
    """mIoU of what the table shows."""
    if run.measured is not None:
        return run.measured.mean()
    at = run.log.classes_at
    return run.log.validations[at].get('mIoU') if at is not None else None


def css_colour(colour: Sequence[int]) -> str:
    """A colour as CSS has it."""
    return '#' + ''.join(f'{min(255, max(0, int(value))):02x}' for value in colour[:3])


@dataclass(frozen=True)
class Confusion:
    """What a network makes of each class.

    Attributes:
        run: Whose.
        shares: (C, C) in percent of the annotated class's pixels; None in rows without pixels.
        picture: A data URI; None where the numbers are shown.
        sparse: By annotated class: (predicted class, tenths of a percent), what rounds to 0 left
            out; for the readout of the picture.
    """

    run: Run
    shares: list[list[float | None]]
    picture: str | None
    sparse: list[list[tuple[int, int]]]


def normalised(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Percent of each row; NaN where a row is empty."""
    sums = confusion.sum(1, keepdims=True)
    shares = np.full(confusion.shape, np.nan)
    np.divide(100.0 * confusion, sums, out=shares, where=sums > 0)
    return shares


def confusions(runs: Sequence[Run]) -> list[Confusion]:
    """The confusion of every measured run with the first one's classes."""
    measured = [run for run in runs if run.measured is not None]
    result = []
    for run in measured:
        assert run.measured is not None
        assert measured[0].measured is not None
        if run.measured.classes != measured[0].measured.classes:
            continue
        shares = normalised(run.measured.confusion)
        large = len(shares) > MOST_CELLS
        tenths = np.nan_to_num(shares * 10).round().astype(int)
        sparse = [[(int(j), int(row[j])) for j in np.flatnonzero(row)] for row in tenths]
        result.append(
            Confusion(
                run,
                [[_finite(float(v)) for v in row] for row in shares],
                _picture(shares) if large else None,
                sparse if large else [],
            )
        )
    return result


def _picture(shares: NDArray[np.float64]) -> str:
    """A pixel for each pair, the more opaque the more of the row it has."""
    opacity = (255 * np.sqrt(np.nan_to_num(shares) / 100)).round().astype(np.uint8)
    pixels = np.dstack([np.full_like(opacity, value) for value in INK] + [opacity])
    rows = np.arange(len(pixels))
    pixels[rows, rows, :3] = GREY
    return data_uri(Image.fromarray(pixels, 'RGBA'), 'PNG')


def confused_pairs(found: Sequence[Confusion]) -> list[dict[str, Any]]:
    """The pairs of classes that the first network confuses most, and what the others do there.

    A pair's rank is the share of its annotated class; classes with few pixels count as others do.
    """
    if not found:
        return []
    measured = found[0].run.measured
    assert measured is not None
    shares = np.nan_to_num(normalised(measured.confusion))
    np.fill_diagonal(shares, 0)
    order = np.argsort(shares, axis=None, kind='stable')[::-1][:PAIRS]
    rows = []
    for annotated, predicted in zip(*np.unravel_index(order, shares.shape), strict=True):
        if shares[annotated, predicted] < 0.05:
            break
        rows.append(
            dict(
                annotated=measured.classes[annotated],
                predicted=measured.classes[predicted],
                shares=[one.shares[annotated][predicted] for one in found],
            )
        )
    return rows
