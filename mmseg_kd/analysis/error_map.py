"""Error maps: what a network gets wrong, and which of two networks is right where.

Colours are those of Okabe and Ito (2008), which the colour-blind tell apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmseg_kd.analysis.comparison import colour_label
from mmseg_kd.analysis.differences import VOID, Label, differing, largest_region
from mmseg_kd.analysis.grid import Cell, Colour, Picture, draw_grid
from mmseg_kd.analysis.scene import Scene

WRONG: Colour = (213, 94, 0)
ONLY_FIRST: Colour = (240, 228, 66)
ONLY_SECOND: Colour = (0, 114, 178)
BOTH_WRONG: Colour = (148, 52, 110)
VOID_COLOUR: Colour = (64, 64, 64)
# What the legend shows for the dimmed image.
DIMMED: Colour = (225, 225, 225)

# Codes of a map of outcomes.
OUTCOMES = ('both right', 'only first', 'only second', 'both wrong', 'void')
_COLOURS = (DIMMED, ONLY_FIRST, ONLY_SECOND, BOTH_WRONG, VOID_COLOUR)


def outcomes(first_HW: Label, second_HW: Label, label_HW: Label) -> NDArray[np.uint8]:
    """Which of two predictions are right, as positions (H, W) in `OUTCOMES`."""
    first_is_wrong, second_is_wrong = first_HW != label_HW, second_HW != label_HW
    # 0: none is wrong; 1: the second is, so that only the first is right; and so on.
    codes: NDArray[np.uint8] = second_is_wrong.astype(np.uint8)
    codes += 2 * first_is_wrong.astype(np.uint8)
    codes[label_HW == VOID] = OUTCOMES.index('void')
    return codes


def shares(codes_HW: NDArray[np.uint8]) -> dict[str, float]:
    """The share, 0 to 1, of each outcome: of the annotated pixels, and of void of all."""
    counts = np.bincount(codes_HW.ravel(), minlength=len(OUTCOMES))
    annotated = max(1, int(counts[:-1].sum()))
    found = {name: float(counts[i] / annotated) for i, name in enumerate(OUTCOMES[:-1])}
    return found | {'void': float(counts[-1] / codes_HW.size)}


def dimmed(image_HW3: Picture) -> Picture:
    """An RGB image in light grey, on which colours stand out."""
    grey = cv2.cvtColor(image_HW3, cv2.COLOR_RGB2GRAY).astype(np.float32)
    light = (255 - 0.45 * (255 - grey)).round().astype(np.uint8)
    return np.repeat(light[..., None], 3, axis=2)


def paint(codes_HW: NDArray[np.uint8], image_HW3: Picture, colours: Sequence[Colour]) -> Picture:
    """Codes above 0 in their colours over the dimmed image."""
    picture = dimmed(image_HW3)
    painted = codes_HW > 0
    picture[painted] = np.asarray(colours, dtype=np.uint8)[codes_HW[painted]]
    return picture


def paint_errors(scene: Scene, title: str) -> Picture:
    """What a network gets wrong in `WRONG`, and void, over the dimmed image."""
    assert scene.label_HW is not None
    codes = outcomes(scene.predictions[title], scene.predictions[title], scene.label_HW)
    return paint(codes, scene.at_label_size(), (DIMMED, WRONG, WRONG, WRONG, VOID_COLOUR))


def error_figure(
    scenes: Sequence[Scene],
    titles: Sequence[str],
    palette: Sequence[Sequence[int]],
    between: tuple[str, str] | None = None,
    cell_width: int = 256,
) -> Image.Image:
    """Image, ground truth, each network's errors, and where one of two networks is right.

    Below each map stands what it counts in that picture; the legend has the shares over all.

    Args:
        scenes: What is shown; all with ground truth.
        titles: The networks in their order.
        palette: Of the data set.
        between: The two networks of the last column; None: without it.
        cell_width: Width of a picture in the figure, in pixels.
    """
    columns: dict[str, list[Cell]] = {'image': [], 'ground truth': []}
    columns |= {f'{title}: errors': [] for title in titles}
    last = f'{between[0]} against {between[1]}' if between else ''
    columns |= {last: []} if between else {}
    codes: dict[str, list[NDArray[np.uint8]]] = {title: [] for title in columns}
    for scene in scenes:
        assert scene.label_HW is not None
        box = None
        if between is not None:
            first, second = (scene.predictions[title] for title in between)
            box = largest_region(differing(first, second, scene.label_HW))
        columns['image'].append(Cell(scene.at_label_size(), scene.name, box, crisp=False))
        columns['ground truth'].append(Cell(colour_label(scene.label_HW, palette), box=box))
        for title in titles:
            prediction = scene.predictions[title]
            found = outcomes(prediction, prediction, scene.label_HW)
            codes[f'{title}: errors'].append(found)
            wrong = shares(found)['both wrong']
            cell = Cell(paint_errors(scene, title), f'wrong {100 * wrong:.1f} %', box)
            columns[f'{title}: errors'].append(cell)
        if between is not None:
            found = outcomes(first, second, scene.label_HW)
            codes[last].append(found)
            picture = paint(found, scene.at_label_size(), _COLOURS)
            part = shares(found)
            caption = ', '.join(
                f'only {title} {100 * part[name]:.1f} %'
                for title, name in zip(between, ('only first', 'only second'), strict=True)
            )
            columns[last].append(Cell(picture, caption, box))
    return draw_grid(columns, _legend(codes, titles, between, last), cell_width)


def _legend(
    codes: Mapping[str, Sequence[NDArray[np.uint8]]],
    titles: Sequence[str],
    between: tuple[str, str] | None,
    last: str,
) -> dict[str, Colour]:
    """The colours with the shares over all pictures together."""

    def together(column: str) -> dict[str, float]:
        return shares(np.concatenate([one.ravel() for one in codes[column]]))

    wrong = {title: together(f'{title}: errors') for title in titles}
    text = ', '.join(f'{title} {100 * part["both wrong"]:.1f} %' for title, part in wrong.items())
    legend = {f'wrong ({text})': WRONG}
    if between is not None:
        part = together(last)
        words = ('both right', *(f'only {title} right' for title in between), 'both wrong')
        for index, (word, name) in enumerate(zip(words, OUTCOMES, strict=False)):
            legend[f'{word} {100 * part[name]:.1f} %'] = _COLOURS[index]
    void = next(iter(wrong.values()))['void']
    return legend | ({f'void {100 * void:.1f} %': VOID_COLOUR} if void else {})
