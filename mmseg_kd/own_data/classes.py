"""Which value, or colour, of the masks is which class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mmseg_kd.checkpoints.save import atomic_write
from mmseg_kd.datasets.class_list import ClassList, Colour
from mmseg_kd.errors import DatasetError
from mmseg_kd.own_data.pairs import Pair, Pairs
from mmseg_kd.own_data.survey import Survey, mask_values, rgb, shares

IGNORED = 255

# Names of what is no class.
VOID = ('void', 'ignore', 'ignored', 'unlabelled', 'unlabeled')

# Files that may have the names, in the folder of the data, in small letters.
FILES = ('classes.txt', 'class_names.txt', 'labels.txt', 'label_colors.txt', 'class_dict.csv')

# Values that a message lists.
_SHOWN = 8


@dataclass(frozen=True)
class Classes:
    """The classes of a folder.

    Attributes:
        found: Their names, with colours to paint them in where there are any.
        labels: The class of each value of the masks, 255 for what is ignored.
        as_they_are: Whether masks hold the classes' indices already, so that none need be written.
    """

    found: ClassList
    labels: Mapping[int, int]
    as_they_are: bool

    def counts(self, values: Mapping[int, int]) -> Counter[int]:
        """How often there is a class, of how often there is a value."""
        counts: Counter[int] = Counter()
        for value, count in values.items():
            counts[self.labels[value]] += count
        return counts


def class_file(root: Path) -> Path | None:
    """The file in a folder that has the names of its classes; None: there is none."""
    files = {path.name.lower(): path for path in sorted(root.iterdir()) if path.is_file()}
    return next((files[name] for name in FILES if name in files), None)


def what_needs_names(survey: Survey) -> list[int]:
    """The values of the masks that are to be called something: not 255, unless it is all but one.

    Masks of 0 and 255 have two classes.
    """
    values = survey.values
    if survey.is_colour or values == [0, IGNORED]:
        return values
    return [value for value in values if value != IGNORED]


def described(survey: Survey, value: int) -> str:
    """A value or colour with its share, for messages."""
    total: Counter[int] = Counter()
    for pixels in survey.pixels.values():
        total.update(pixels)
    text = ' '.join(map(str, rgb(value))) if survey.is_colour else str(value)
    return f'{text} ({shares(total)[value]:.1%})'


def name_classes(survey: Survey, given: ClassList) -> Classes:
    """Find out which value each class has.

    Colours are looked up. Indices are the places in the list, from 0; where they are none, the
    values that there are, in their order. What is called void (or ignore, unlabelled) is ignored.

    Raises:
        DatasetError: Masks are in colours and the list has none, or hold other values than are
            named.
    """
    if survey.is_colour:
        values = _values_of_colours(survey, given)
    else:
        values = _values_of_indices(survey, given)
    kept = [index for index, name in enumerate(given.names) if name.lower() not in VOID]
    labels = dict.fromkeys(survey.values, IGNORED)
    labels |= {values[index]: label for label, index in enumerate(kept)}
    colours = given.colours or _palette(survey, values)
    found = ClassList(
        tuple(given.names[index] for index in kept),
        None if colours is None else tuple(colours[index] for index in kept),
    )
    if not 2 <= len(found.names) <= IGNORED:
        raise DatasetError(f'expected 2 to {IGNORED} classes, got {len(found.names)}.')
    as_they_are = not survey.is_colour and all(value == label for value, label in labels.items())
    return Classes(found, labels, as_they_are)


def _values_of_colours(survey: Survey, given: ClassList) -> list[int]:
    if given.colours is None:
        raise DatasetError(
            f'masks are in colours, {listed(survey, survey.values)}, and the classes have none; '
            'write a file with a line R G B NAME for each and give it with --classes.'
        )
    values = [r << 16 | g << 8 | b for r, g, b in given.colours]
    foreign = [value for value in survey.values if value not in values]
    if foreign:
        raise DatasetError(
            f'masks hold colours that are no class: {listed(survey, foreign)}; add a line '
            'R G B NAME for each, or R G B void for what is to be ignored.'
        )
    return values


def _values_of_indices(survey: Survey, given: ClassList) -> list[int]:
    """The value of each name, in their order."""
    count, there = len(given.names), what_needs_names(survey)
    if there != [0, IGNORED] and all(value < count for value in there):
        return list(range(count))
    if len(there) != count:
        raise DatasetError(
            f'masks hold {len(there)} values, {listed(survey, there)}, and there are {count} '
            'names; name each, and call void what is to be ignored.'
        )
    return there


def listed(survey: Survey, values: list[int]) -> str:
    """Values with their shares, the first of them, for messages."""
    more = f' and {len(values) - _SHOWN} more' if len(values) > _SHOWN else ''
    return ', '.join(described(survey, value) for value in values[:_SHOWN]) + more


def _palette(survey: Survey, values: list[int]) -> tuple[Colour, ...] | None:
    """The colours that a palette PNG shows values in; None: it has none, or two alike."""
    flat = survey.palette or []
    colours = [tuple(flat[3 * value : 3 * value + 3]) for value in values]
    if len(set(colours)) < len(colours) or any(len(colour) != 3 for colour in colours):
        return None
    return tuple((r, g, b) for r, g, b in colours)


def write_masks(pairs: Pairs, classes: Classes, folder: Path) -> dict[str, list[Pair]]:
    """Write masks of class indices; returns the pairs with these.

    Args:
        pairs: As they are.
        classes: Their classes.
        folder: Each mask gets the place there that its own has in the folder of the data.

    Raises:
        CheckpointError: One cannot be written.
    """
    values = np.array(sorted(classes.labels))
    labels = np.array([classes.labels[value] for value in values.tolist()], np.uint8)
    written: dict[str, list[Pair]] = {}
    for split, found in pairs.splits.items():
        written[split] = []
        for pair in found:
            with Image.open(pairs.root / pair.mask) as opened:
                mask, _ = mask_values(opened)
            name = Path(pair.mask).with_suffix('.png')
            with atomic_write(folder / name) as partial:
                label_HW = labels[np.searchsorted(values, mask)]
                Image.fromarray(label_HW).save(partial, format='PNG')
            written[split].append(Pair(pair.image, name.as_posix()))
    return written
