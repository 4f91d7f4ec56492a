"""The comparison figure: image, ground truth, and what several networks make of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Picture = NDArray[np.uint8]

IGNORED = (0, 0, 0)
INK = (32, 33, 36)
PAPER = (255, 255, 255)


def colour_label(label_HW: Picture, palette: Sequence[Sequence[int]]) -> Picture:
    """Class indices (H, W) as an RGB picture (H, W, 3); indices without a class are black."""
    table = np.zeros((256, 3), dtype=np.uint8)
    table[:] = IGNORED
    table[: len(palette)] = np.asarray(palette, dtype=np.uint8)
    return table[label_HW]


def draw_comparison(
    columns: Mapping[str, Sequence[Picture]],
    classes: Sequence[str],
    palette: Sequence[Sequence[int]],
    cell_width: int = 256,
) -> Image.Image:
    """Columns of pictures under their titles, and a legend of the classes below.

    Args:
        columns: Title to RGB pictures (H, W, 3), one a row; a title of two lines is fine.
        classes, palette: Names and RGB colours for the legend.
        cell_width: Width of a picture in the figure, in pixels.

    Raises:
        ValueError: The columns do not have one length.
    """
    lengths = {title: len(pictures) for title, pictures in columns.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f'expected columns of one length, got {lengths}.')
    font = ImageFont.load_default(size=cell_width / 14)
    small = ImageFont.load_default(size=cell_width / 17)
    gap = cell_width // 32
    height, width = next(iter(columns.values()))[0].shape[:2]
    cell_height = round(cell_width * height / width)
    rows = next(iter(lengths.values()))
    title_height = round(cell_width / 14 * 1.3) * max(t.count('\n') + 1 for t in columns) + gap
    line = round(cell_width / 17 * 1.7)
    side = round(line * 0.55)
    entry_widths = {name: round(side + gap + small.getlength(name) + 3 * gap) for name in classes}
    legend = _legend_rows(entry_widths, len(columns) * (cell_width + gap) - gap)
    figure = Image.new(
        'RGB',
        (
            len(columns) * (cell_width + gap) + gap,
            title_height + gap + rows * (cell_height + gap) + len(legend) * line + gap,
        ),
        PAPER,
    )
    draw = ImageDraw.Draw(figure)
    for column, (title, pictures) in enumerate(columns.items()):
        x = gap + column * (cell_width + gap)
        centre = (x + cell_width / 2, gap + title_height / 2)
        draw.multiline_text(centre, title, INK, font, anchor='mm', align='center')
        for row, picture in enumerate(pictures):
            # Labels must stay crisp, photographs should not show steps.
            few_colours = len(np.unique(picture.reshape(-1, 3), axis=0)) <= len(classes) + 1
            how = Image.Resampling.NEAREST if few_colours else Image.Resampling.BICUBIC
            cell = Image.fromarray(picture).resize((cell_width, cell_height), how)
            figure.paste(cell, (x, title_height + gap + row * (cell_height + gap)))
    y = title_height + gap + rows * (cell_height + gap) + gap // 2
    for names in legend:
        x = gap
        for name in names:
            colour = tuple(palette[classes.index(name)])
            draw.rectangle((x, y, x + side, y + side), fill=colour, outline=INK)
            draw.text((x + side + gap, y + side / 2), name, INK, small, anchor='lm')
            x += entry_widths[name]
        y += line
    return figure


def _legend_rows(widths: Mapping[str, int], available: int) -> list[list[str]]:
    """The names in as many rows as their widths ask for."""
    rows: list[list[str]] = [[]]
    used = 0
    for name, width in widths.items():
        if rows[-1] and used + width > available:
            rows.append([])
            used = 0
        rows[-1].append(name)
        used += width
    return rows
