"""The comparison figure: image, ground truth, and what several networks make of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from mmseg_kd.analysis.differences import VOID, Box, Label, differing, largest_region
from mmseg_kd.analysis.grid import Cell, Colour, Picture, draw_grid
from mmseg_kd.analysis.scene import Scene

IGNORED = (0, 0, 0)


def colour_label(label_HW: Label, palette: Sequence[Sequence[int]]) -> Picture:
    """Class indices (H, W) as an RGB picture (H, W, 3); indices without a class are black."""
    table = np.zeros((256, 3), dtype=np.uint8)
    table[:] = IGNORED
    table[: len(palette)] = np.asarray(palette, dtype=np.uint8)
    return table[label_HW]


def class_legend(
    labels: Sequence[Label], classes: Sequence[str], palette: Sequence[Sequence[int]]
) -> dict[str, Colour]:
    """The colours of the classes that occur in some labels, and of void where it does."""
    present = np.zeros(256, dtype=bool)
    for label_HW in labels:
        present[np.unique(label_HW)] = True
    legend = {
        name: (int(colour[0]), int(colour[1]), int(colour[2]))
        for index, (name, colour) in enumerate(zip(classes, palette, strict=True))
        if present[index]
    }
    return legend | ({'void': IGNORED} if present[VOID] else {})


def comparison_figure(
    scenes: Sequence[Scene],
    titles: Sequence[str],
    classes: Sequence[str],
    palette: Sequence[Sequence[int]],
    between: tuple[str, str] | None = None,
    cell_width: int = 256,
) -> Image.Image:
    """Image, ground truth and the networks' predictions, one row a scene.

    Below each prediction stands the mean of its classes' IoU in this picture.

    Args:
        scenes: What is shown.
        titles: The networks in their order.
        classes, palette: Of the data set; the legend has the classes that occur.
        between: The networks whose largest difference is outlined; None: no outline.
        cell_width: Width of a picture in the figure, in pixels.
    """
    columns: dict[str, list[Cell]] = {}
    for scene in scenes:
        box = outline(scene, between)
        row = first_cells(scene, palette, box)
        for title in titles:
            picture = colour_label(scene.predictions[title], palette)
            row[title] = Cell(picture, scene.caption(title), box)
        for title, cell in row.items():
            columns.setdefault(title, []).append(cell)
    labels = [scene.label_HW for scene in scenes if scene.label_HW is not None]
    labels += [scene.predictions[title] for scene in scenes for title in titles]
    return draw_grid(columns, class_legend(labels, classes, palette), cell_width)


def outline(scene: Scene, between: tuple[str, str] | None) -> Box | None:
    """Around the largest difference of two networks, by their titles; None where there is none."""
    if between is None:
        return None
    first, second = (scene.predictions[title] for title in between)
    return largest_region(differing(first, second, scene.label_HW))


def first_cells(scene: Scene, palette: Sequence[Sequence[int]], box: Box | None) -> dict[str, Cell]:
    """What stands on the left of a row: the image, and the ground truth where there is one."""
    cells = {'image': Cell(scene.at_label_size(), scene.name, box, crisp=False)}
    if scene.label_HW is not None:
        cells['ground truth'] = Cell(colour_label(scene.label_HW, palette), box=box)
    return cells
