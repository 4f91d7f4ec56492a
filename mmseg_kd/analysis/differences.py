"""Where two networks differ: which images of a data set show it, and where in an image.

Void pixels (255) take no part. What is counted are pixels at which one network is right and the
other is wrong; without ground truth, pixels at which they disagree.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from mmseg_kd.evaluation.labels import label_of, predict_labels

Label = NDArray[np.uint8]
Mask = NDArray[np.bool_]

VOID = 255
# Strips thinner than this share of the image's smaller side are borders drawn a little
# differently, not things that are seen differently.
_THIN = 1 / 50


class Box(NamedTuple):
    """A part of an image in pixels; `right` and `bottom` are the first ones outside."""

    left: int
    top: int
    right: int
    bottom: int


def differing(first_HW: Label, second_HW: Label, label_HW: Label | None) -> Mask:
    """Where one of two predictions is right and the other is wrong.

    Args:
        first_HW, second_HW: Class indices.
        label_HW: The ground truth; None: there is none, and all pixels that differ count.
    """
    differ: Mask = first_HW != second_HW
    if label_HW is None:
        return differ
    is_one_right: Mask = (first_HW == label_HW) | (second_HW == label_HW)
    counted: Mask = differ & is_one_right & (label_HW != VOID)
    return counted


def difference(first_HW: Label, second_HW: Label, label_HW: Label | None) -> float:
    """The share of an image's annotated pixels that are `differing`, 0 to 1."""
    counted = first_HW.size if label_HW is None else np.count_nonzero(label_HW != VOID)
    return float(np.count_nonzero(differing(first_HW, second_HW, label_HW)) / max(1, counted))


def largest_region(mask_HW: Mask) -> Box | None:
    """The box around the largest connected region, thin strips left out where there is more.

    Args:
        mask_HW: For instance what `differing` gives.

    Returns:
        None where nothing is set.
    """
    # Odd, for a middle: around another one the regions would move by a pixel.
    side = 1 + 2 * int(min(mask_HW.shape) * _THIN / 2)
    pixels = mask_HW.astype(np.uint8)
    # What is beyond the border counts as unset, so that a strip along it is thin as well.
    framed = cv2.copyMakeBorder(pixels, side, side, side, side, cv2.BORDER_CONSTANT, value=0)
    opened = cv2.morphologyEx(framed, cv2.MORPH_OPEN, np.ones((side, side), np.uint8))
    opened = opened[side:-side, side:-side]
    count, _, stats, _ = cv2.connectedComponentsWithStats(opened if opened.any() else pixels)
    if count < 2:  # the background alone
        return None
    left, top, width, height, _ = map(int, stats[1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())])
    return Box(left, top, left + width, top + height)


def most_different(differences: Sequence[float], count: int) -> list[int]:
    """Positions of the images that differ most, spread over the whole list.

    One after the other the image that differs most is taken, none nearer to another than half
    the distance at which they would lie evenly: neighbours in a data set are often pictures of
    the same place.

    Args:
        differences: One number an image.
        count: How many to choose; at most as many as there are.

    Returns:
        Positions in ascending order; of equal images the first.
    """
    values = np.asarray(differences, dtype=float)
    count = min(count, len(values))
    chosen: list[int] = []
    while len(chosen) < count:
        position = int(values.argmax())
        chosen.append(position)
        # Rounded down, so that enough are left for the others.
        reach = max(1, len(values) // (2 * count))
        near = np.abs(np.arange(len(values)) - position) < reach
        values[near] = -np.inf
    return sorted(chosen)


def evenly_spaced(length: int, count: int) -> list[int]:
    """`count` positions from the first to the last of a list, or all of a shorter one."""
    return sorted({int(i) for i in np.linspace(0, length - 1, min(length, count)).round()})


def choose_images(first: Any, second: Any, dataset: Any, count: int, sample: int) -> list[int]:
    """Images of a data set on which two networks differ most.

    Args:
        first, second: Segmentors of mmseg's.
        dataset: A data set of mmseg's with its test pipeline, or anything with its items.
        count: How many to choose, as `most_different` does.
        sample: How many evenly spaced images to look at.

    Returns:
        Their indices in ascending order.
    """
    candidates = evenly_spaced(len(dataset), max(count, sample))
    differences = []
    for index in candidates:
        [ours] = predict_labels(first, dataset, [index])
        [theirs] = predict_labels(second, dataset, [index])
        differences.append(difference(ours, theirs, label_of(dataset[index])))
    return [candidates[position] for position in most_different(differences, count)]
