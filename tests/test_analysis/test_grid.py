"""A figure of pictures: each in its place, with its marks, and a legend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mmseg_kd.analysis.differences import Box
from mmseg_kd.analysis.grid import Bar, Cell, draw_grid

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
WIDTH = 128
GAP = WIDTH // 32


def plain(colour: tuple[int, int, int], height: int = 64, width: int = 64) -> Any:
    return np.full((height, width, 3), colour, dtype=np.uint8)


def where(figure: Any, colour: tuple[int, int, int]) -> Box:
    """The box around all pixels of a colour."""
    rows, columns = np.nonzero((np.asarray(figure) == colour).all(axis=2))
    return Box(columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_every_picture_is_in_its_cell() -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (8, 12, 3)).astype(np.uint8) for _ in range(4)]
    columns = {'a': pictures[:2], 'b': pictures[2:]}
    cells = {title: list(map(Cell, column)) for title, column in columns.items()}
    figure = np.asarray(draw_grid(cells, {'red': RED}, 120))
    gap, width, height = 120 // 32, 120, 80
    # Rows of cells are found by their distance from the figure's left edge.
    for column, title in enumerate(columns):
        x = gap + column * (width + gap)
        strip = figure[:, x : x + width]
        filled = np.flatnonzero((strip != 255).any(axis=2).mean(axis=1) > 0.99)
        runs = np.split(filled, np.flatnonzero(np.diff(filled) > 1) + 1)
        found = [run for run in runs if len(run) == height]
        assert len(found) == 2
        for run, picture in zip(found, columns[title], strict=True):
            cell = strip[run[0] : run[0] + height]
            # One sample from the middle of each of the 10 pixels wide squares.
            assert np.array_equal(cell[5::10, 5::10], picture)


def test_the_outline_is_around_its_box_and_leaves_it_free() -> None:
    picture = plain(BLUE)
    box = Box(16, 24, 40, 48)
    picture[24:48, 16:40] = RED
    pixels = np.asarray(draw_grid({'a': [Cell(picture, box=box)]}, {}, WIDTH))
    # Twice as large; all red pixels are seen, and right outside there is black, then white.
    red = where(pixels, RED)
    assert red[2] - red[0] == red[3] - red[1] == 48
    corner = where(pixels, BLUE)[:2]
    assert (red.left - corner[0], red.top - corner[1]) == (32, 48)
    middle = pixels[(red.top + red.bottom) // 2]
    assert middle[red.left - 1].tolist() == middle[red.right].tolist() == [0, 0, 0]
    assert middle[red.left - 2].tolist() == middle[red.right + 1].tolist() == [255] * 3
    assert middle[red.left - 5].tolist() == middle[red.right + 4].tolist() == list(BLUE)


def test_an_outline_at_the_border_stays_in_its_picture() -> None:
    with_box = np.asarray(draw_grid({'a': [Cell(plain(BLUE), box=Box(0, 0, 64, 64))]}, {}, WIDTH))
    without = np.asarray(draw_grid({'a': [Cell(plain(BLUE))]}, {}, WIDTH))
    outside = ~(without == BLUE).all(axis=2)
    assert np.array_equal(with_box[outside], without[outside])
    assert (with_box[~outside] == 255).all(axis=1).any()


def test_a_cross_is_where_it_is_said_to_be() -> None:
    cells = [Cell(plain(BLUE), point=(0.25, 0.75)), Cell(plain(BLUE, 8, 8), point=(0.25, 0.75))]
    pixels = np.asarray(draw_grid({'a': cells[:1], 'b': cells[1:]}, {}, WIDTH))
    top = where(pixels, BLUE).top
    for column in range(2):
        x, y = GAP + column * (WIDTH + GAP) + WIDTH // 4, top + 3 * WIDTH // 4
        assert pixels[y, x].tolist() == [255] * 3
        # As far to the left as to the right, and up as down.
        white = (pixels[top : top + WIDTH, x - 32 : x + 32] == 255).all(axis=2)
        rows, columns = np.nonzero(white)
        assert abs(rows.mean() - (y - top)) <= 1
        assert abs(columns.mean() - 32) <= 1


def test_rows_have_the_shape_of_their_first_picture() -> None:
    cells = [Cell(plain(RED, 32, 64)), Cell(plain(GREEN, 64, 32))]
    figure = draw_grid({'a': cells}, {}, WIDTH)
    red, green = where(figure, RED), where(figure, GREEN)
    assert (red.right - red.left, red.bottom - red.top) == (128, 64)
    assert (green.right - green.left, green.bottom - green.top) == (128, 256)


def test_the_legend_has_each_colour_once_and_wraps() -> None:
    names = {f'class number {i}': (i, 200, 100) for i in range(1, 8)}
    figure = draw_grid({'a': [Cell(plain(RED))]}, names, WIDTH)
    squares = [where(figure, colour) for colour in names.values()]
    below = where(figure, RED).bottom
    assert all(square.top > below and square.right < figure.width for square in squares)
    assert len({(square.left, square.top) for square in squares}) == len(names)
    assert squares[-1].bottom < figure.height


def test_a_long_title_and_caption_are_made_to_fit() -> None:
    long = 'a very long title that does not fit at all into so small a figure'
    figure = np.asarray(draw_grid({long: [Cell(plain(BLUE), long)]}, {long: RED}, WIDTH))
    assert figure.shape[1] == WIDTH + 2 * GAP
    # Nothing reaches the margins.
    assert (figure[:, : GAP - 1] == 255).all()
    assert (figure[:, -GAP + 1 :] == 255).all()


def test_the_bar_goes_from_low_to_high() -> None:
    colours = np.stack([np.arange(256), np.full(256, 7), np.full(256, 9)], 1).astype(np.uint8)
    pixels = np.asarray(draw_grid({'a': [Cell(plain(BLUE))]}, {}, WIDTH, Bar(colours, '0', 'top')))
    bar = (pixels[..., 1] == 7) & (pixels[..., 2] == 9)
    row = int(np.nonzero(bar.any(axis=1))[0].mean())
    values = pixels[row, bar[row], 0].astype(int)
    assert values[0] < 10
    assert values[-1] > 240
    assert (np.diff(values) >= 0).all()


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'b': 2"):
        draw_grid({'a': [Cell(plain(RED))], 'b': [Cell(plain(RED))] * 2}, {})
