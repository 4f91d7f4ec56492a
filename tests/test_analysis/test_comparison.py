"""The comparison figure shows what it is given."""

from __future__ import annotations

import numpy as np
import pytest

from mmseg_kd.analysis.comparison import colour_label, draw_comparison

PALETTE = [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
CLASSES = ('red', 'green', 'blue')


def test_labels_get_their_colours_and_ignored_pixels_black() -> None:
    coloured = colour_label(np.array([[0, 2], [1, 255]], dtype=np.uint8), PALETTE)
    assert coloured.tolist() == [[[255, 0, 0], [0, 0, 255]], [[0, 255, 0], [0, 0, 0]]]


def test_every_picture_is_in_its_cell() -> None:
    rng = np.random.default_rng(0)
    labels = [rng.integers(0, 3, (8, 12)).astype(np.uint8) for _ in range(4)]
    pictures = [colour_label(label, PALETTE) for label in labels]
    columns = {'a': pictures[:2], 'b': pictures[2:]}
    figure = np.asarray(draw_comparison(columns, CLASSES, PALETTE, cell_width=120))
    gap, width, height = 120 // 32, 120, 80
    # Rows of cells are found by their distance from the figure's left edge.
    for column, title in enumerate(columns):
        x = gap + column * (width + gap)
        strip = figure[:, x : x + width]
        filled = np.flatnonzero((strip != 255).any(axis=2).mean(axis=1) > 0.99)
        runs = np.split(filled, np.flatnonzero(np.diff(filled) > 1) + 1)
        cells = [run for run in runs if len(run) == height]
        assert len(cells) == 2
        for run, picture in zip(cells, columns[title], strict=True):
            cell = strip[run[0] : run[0] + height]
            # One sample from the middle of each of the 10 pixels wide squares.
            assert np.array_equal(cell[5::10, 5::10], picture)


def test_columns_of_different_lengths_are_refused() -> None:
    picture = np.zeros((4, 4, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match=r"'b': 2"):
        draw_comparison({'a': [picture], 'b': [picture] * 2}, CLASSES, PALETTE)
