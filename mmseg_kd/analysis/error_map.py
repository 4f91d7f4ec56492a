"""Error maps: what a network gets wrong, and which of two networks is right where.

Colours are after Okabe and Ito (2008): the colour-blind tell them apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmseg_kd.analysis.comparison import first_cells, outline
from mmseg_kd.analysis.differences import VOID, Label
from mmseg_kd.analysis.grid import Cell, Colour, Picture, draw_grid
from mmseg_kd.analysis.scene import Scene

# Of each pixel the position in `OUTCOMES`.
Codes = NDArray[np.uint8]

WRONG: Colour = (213, 94, 0)
ONLY_FIRST: Colour = (240, 228, 66)
ONLY_SECOND: Colour = (0, 114, 178)
BOTH_WRONG: Colour = (148, 52, 110)
VOID_COLOUR: Colour = (64, 64, 64)
# What the legend shows for the dimmed image.
DIMMED: Colour = (225, 225, 225)

OUTCOMES = ('both right', 'only first', 'only second', 'both wrong', 'void')
_COLOURS = (DIMMED, ONLY_FIRST, ONLY_SECOND, BOTH_WRONG, VOID_COLOUR)
# Of a network compared with itself: both are right, or both wrong.
_SINGLE = (DIMMED, WRONG, WRONG, WRONG, VOID_COLOUR)


def outcomes(first_HW: Label, second_HW: Label, label_HW: Label) -> Codes:
    """Which of two predictions are right, as positions (H, W) in `OUTCOMES`."""
    first_is_wrong, second_is_wrong = first_HW != label_HW, second_HW != label_HW
    # 0: none is wrong; 1: the second is, so that only the first is right; and so on.
    codes: Codes = second_is_wrong.astype(np.uint8)
    codes += 2 * first_is_wrong.astype(np.uint8)
    codes[label_HW == VOID] = OUTCOMES.index('void')
    return codes


def shares(codes: Codes) -> dict[str, float]:
    """The share, 0 to 1, of each outcome: of the annotated pixels, and of void of all."""
    counts = np.bincount(codes.ravel(), minlength=len(OUTCOMES))
    annotated = max(1, int(counts[:-1].sum()))
    found = {name: float(counts[i] / annotated) for i, name in enumerate(OUTCOMES[:-1])}
    return found | {'void': float(counts[-1] / codes.size)}


def dimmed(image_HW3: Picture) -> Picture:
    """An RGB image in light grey, on which colours stand out."""
    grey = cv2.cvtColor(image_HW3, cv2.COLOR_RGB2GRAY).astype(np.float32)
    light = (255 - 0.45 * (255 - grey)).round().astype(np.uint8)
    return np.repeat(light[..., None], 3, axis=2)


def paint(codes_HW: Codes, image_HW3: Picture, colours: Sequence[Colour]) -> Picture:
    """Codes above 0 in their colours over the dimmed image."""
    picture = dimmed(image_HW3)
    painted = codes_HW > 0
    picture[painted] = np.asarray(colours, dtype=np.uint8)[codes_HW[painted]]
    return picture


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
    columns: dict[str, list[Cell]] = {}
    single: dict[str, list[Codes]] = {title: [] for title in titles}
    pair: list[Codes] = []
    for scene in scenes:
        assert scene.label_HW is not None
        box = outline(scene, between)
        row = first_cells(scene, palette, box)
        for title in titles:
            codes = outcomes(scene.predictions[title], scene.predictions[title], scene.label_HW)
            single[title].append(codes)
            caption = f'wrong {100 * shares(codes)["both wrong"]:.1f} %'
            picture = paint(codes, scene.at_label_size(), _SINGLE)
            row[f'{title}: errors'] = Cell(picture, caption, box)
        if between is not None:
            first, second = between
            codes = outcomes(scene.predictions[first], scene.predictions[second], scene.label_HW)
            pair.append(codes)
            part = {name: f'{100 * share:.1f} %' for name, share in shares(codes).items()}
            caption = f'only {first} {part["only first"]}, only {second} {part["only second"]}'
            picture = paint(codes, scene.at_label_size(), _COLOURS)
            row[f'{first} against {second}'] = Cell(picture, caption, box)
        for title, cell in row.items():
            columns.setdefault(title, []).append(cell)
    return draw_grid(columns, _legend(single, pair, between), cell_width)


def _legend(
    single: Mapping[str, Sequence[Codes]],
    pair: Sequence[Codes],
    between: tuple[str, str] | None,
) -> dict[str, Colour]:
    """The colours with the shares over all pictures together."""

    def together(codes: Sequence[Codes]) -> dict[str, float]:
        return shares(np.concatenate([one.ravel() for one in codes]))

    wrong = {title: together(codes) for title, codes in single.items()}
    text = ', '.join(f'{title} {100 * part["both wrong"]:.1f} %' for title, part in wrong.items())
    legend = {f'wrong ({text})': WRONG}
    if between is not None:
        part = together(pair)
        words = ('both right', *(f'only {title} right' for title in between), 'both wrong')
        for word, name, colour in zip(words, OUTCOMES, _COLOURS, strict=False):
            legend[f'{word} {100 * part[name]:.1f} %'] = colour
    void = next(iter(wrong.values()))['void']
    return legend | ({f'void {100 * void:.1f} %': VOID_COLOUR} if void else {})
