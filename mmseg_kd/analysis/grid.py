"""A figure of pictures in rows and columns, with titles, captions and a legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mmseg_kd.analysis.differences import Box

Picture = NDArray[np.uint8]
Colour = tuple[int, int, int]

INK = (32, 33, 36)
QUIET = (95, 99, 104)
PAPER = (255, 255, 255)


@dataclass(frozen=True)
class Cell:
    """One picture of a figure.

    Attributes:
        picture: RGB (H, W, 3).
        caption: Stands below it; lines are parted by newlines.
        box: What is outlined, in the picture's pixels.
        point: What is marked by a cross: column and row, 0 to 1.
        crisp: Whether its pixels stay as they are when it is enlarged, as labels must.
    """

    picture: Picture
    caption: str = ''
    box: Box | None = None
    point: tuple[float, float] | None = None
    crisp: bool = True


@dataclass(frozen=True)
class Bar:
    """A scale of colours.

    Attributes:
        colours: RGB (n, 3), from the lowest to the highest value.
        low, high: What stands at its ends.
    """

    colours: Picture
    low: str
    high: str


def draw_grid(
    columns: Mapping[str, Sequence[Cell]],
    legend: Mapping[str, Colour],
    cell_width: int = 256,
    bar: Bar | None = None,
) -> Image.Image:
    """Columns of pictures under their titles, and a legend below.

    Args:
        columns: Title to pictures, one a row; a title of two lines is fine. All pictures of a row
            are brought to the shape of its first.
        legend: What the colours mean.
        cell_width: Width of a picture in the figure, in pixels.
        bar: Stands at the end of the legend.

    Raises:
        ValueError: The columns do not have one length.
    """
    lengths = {title: len(cells) for title, cells in columns.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f'expected columns of one length, got {lengths}.')
    font_size, small_size = cell_width / 14, cell_width / 17
    gap = cell_width // 32
    title_height = round(font_size * 1.3) * max(t.count('\n') + 1 for t in columns) + gap
    rows = list(zip(*columns.values(), strict=True))
    shapes = [row[0].picture.shape for row in rows]
    heights = [round(cell_width * (shape[0] / shape[1])) for shape in shapes]
    captions = [round(small_size * 1.3) * max(map(_lines, row)) for row in rows]
    width = len(columns) * (cell_width + gap) + gap
    entries = _Legend(legend, bar, small_size, gap, width - 2 * gap)
    top = title_height + gap
    height = top + sum(heights) + sum(captions) + gap * (len(rows) + 1) + entries.height
    figure = Image.new('RGB', (width, height), PAPER)
    draw = ImageDraw.Draw(figure)
    for column, title in enumerate(columns):
        centre = (gap + column * (cell_width + gap) + cell_width / 2, gap + title_height / 2)
        font = _fitting(title, font_size, cell_width)
        draw.multiline_text(centre, title, INK, font, anchor='mm', align='center')
    for row, cell_height, caption_height in zip(rows, heights, captions, strict=True):
        for column, cell in enumerate(row):
            x = gap + column * (cell_width + gap)
            _paste(figure, draw, cell, (x, top), (cell_width, cell_height))
            if cell.caption:
                centre = (x + cell_width / 2, top + cell_height + gap / 2)
                font = _fitting(cell.caption, small_size, cell_width)
                draw.multiline_text(centre, cell.caption, QUIET, font, anchor='ma', align='center')
        top += cell_height + caption_height + gap
    entries.draw(draw, top + gap)
    return figure


def _lines(cell: Cell) -> int:
    return cell.caption.count('\n') + 1 if cell.caption else 0


def _fitting(text: str, size: float, width: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font in the given size, or as much smaller as the text needs to fit into a width."""
    while True:
        font = ImageFont.load_default(size=size)
        # Small letters have other proportions, so that one division would not do.
        if size < 4 or max(map(font.getlength, text.split('\n'))) <= width:
            return font
        size *= 0.95


def _paste(
    figure: Image.Image,
    draw: ImageDraw.ImageDraw,
    cell: Cell,
    corner: tuple[int, int],
    size: tuple[int, int],
) -> None:
    """Put a picture with its marks into the figure."""
    # Labels must stay crisp, photographs should not show steps.
    how = Image.Resampling.NEAREST if cell.crisp else Image.Resampling.BICUBIC
    figure.paste(Image.fromarray(cell.picture).resize(size, how), corner)
    scale = (size[0] / cell.picture.shape[1], size[1] / cell.picture.shape[0])
    stroke = max(2, size[0] // 110)
    if cell.box is not None:
        # Around the box, cut where the picture ends.
        left, top, right, bottom = (
            round(corner[i % 2] + edge * scale[i % 2]) for i, edge in enumerate(cell.box)
        )
        around = 2 * stroke
        left, top = max(corner[0], left - around), max(corner[1], top - around)
        right = min(corner[0] + size[0], right + around) - 1
        bottom = min(corner[1] + size[1], bottom + around) - 1
        # White on black is seen on every colour.
        draw.rectangle((left, top, right, bottom), outline=(0, 0, 0), width=around)
        inset = stroke // 2
        inner = (left + inset, top + inset, right - inset, bottom - inset)
        draw.rectangle(inner, outline=(255, 255, 255), width=stroke)
    if cell.point is not None:
        x, y = (corner[i] + cell.point[i] * (size[i] - 1) for i in range(2))
        for colour, arm, thickness in (((0, 0, 0), 5, 3 * stroke), ((255, 255, 255), 4, stroke)):
            reach = arm * stroke
            draw.line((x - reach, y, x + reach, y), fill=colour, width=thickness)
            draw.line((x, y - reach, x, y + reach), fill=colour, width=thickness)


class _Legend:
    """Coloured squares with names in as many rows as they need, and a bar."""

    def __init__(
        self,
        names: Mapping[str, Colour],
        bar: Bar | None,
        size: float,
        gap: int,
        available: int,
    ) -> None:
        self._names = names
        self._bar = bar
        self._size = size
        self._font = font = ImageFont.load_default(size=size)
        self._line = line = round(size * 1.7)
        self._gap = gap
        self._available = available
        self._side = round(line * 0.55)
        # What is too long for a row of its own is drawn smaller.
        self._room = available - self._side - gap
        self._widths = {
            name: round(self._side + gap + min(font.getlength(name), self._room) + 3 * gap)
            for name in names
        }
        self._rows = _rows(self._widths, available) if names else []
        self.height = (len(self._rows) + (bar is not None)) * line + 2 * gap

    def draw(self, draw: ImageDraw.ImageDraw, y: int) -> None:
        side, gap = self._side, self._gap
        for names in self._rows:
            x = gap
            for name in names:
                draw.rectangle((x, y, x + side, y + side), fill=self._names[name], outline=INK)
                font = _fitting(name, self._size, self._room)
                draw.text((x + side + gap, y + side / 2), name, INK, font, anchor='lm')
                x += self._widths[name]
            y += self._line
        if self._bar is not None:
            self._draw_bar(draw, self._bar, y)

    def _draw_bar(self, draw: ImageDraw.ImageDraw, bar: Bar, y: int) -> None:
        side, gap = self._side, self._gap
        x = 2 * gap + round(self._font.getlength(bar.low))
        length = min(16 * side, self._available // 3)
        draw.text((gap, y + side / 2), bar.low, INK, self._font, anchor='lm')
        for step in range(length):
            r, g, b = map(int, bar.colours[step * len(bar.colours) // length])
            draw.line((x + step, y, x + step, y + side), fill=(r, g, b))
        draw.rectangle((x, y, x + length, y + side), outline=INK)
        left = x + length + gap
        font = _fitting(bar.high, self._size, self._available - left)
        draw.text((left, y + side / 2), bar.high, INK, font, anchor='lm')


def _rows(widths: Mapping[str, int], available: int) -> list[list[str]]:
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
