"""The comparison figure shows what it is given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mmseg_kd.analysis import comparison
from mmseg_kd.analysis.comparison import class_legend, colour_label, comparison_figure
from mmseg_kd.analysis.differences import Box
from mmseg_kd.analysis.scene import Scene

PALETTE = [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
CLASSES = ('red', 'green', 'blue')


def test_labels_get_their_colours_and_ignored_pixels_black() -> None:
    coloured = colour_label(np.array([[0, 2], [1, 255]], dtype=np.uint8), PALETTE)
    assert coloured.tolist() == [[[255, 0, 0], [0, 0, 255]], [[0, 255, 0], [0, 0, 0]]]


def test_the_legend_has_what_occurs() -> None:
    labels = [np.array([[2, 2]], dtype=np.uint8), np.array([[0, 2]], dtype=np.uint8)]
    assert class_legend(labels, CLASSES, PALETTE) == {'red': (255, 0, 0), 'blue': (0, 0, 255)}
    void = np.array([[255]], dtype=np.uint8)
    assert list(class_legend([void], CLASSES, PALETTE)) == ['void']


def scene_with_a_difference() -> Scene:
    label = np.zeros((60, 80), dtype=np.uint8)
    better = label.copy()
    worse = label.copy()
    worse[20:40, 10:30] = 1
    worse[:, 79] = 2  # a strip
    return Scene('one', np.full((60, 80, 3), 77, dtype=np.uint8), label, dict(a=worse, b=better))


def test_the_difference_is_outlined_in_every_column(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(
        comparison, 'draw_grid', lambda columns, legend, width: given.update(columns, _=legend)
    )
    scene = scene_with_a_difference()
    comparison_figure([scene], ['a', 'b'], CLASSES, PALETTE, ('a', 'b'))
    assert list(given) == ['image', 'ground truth', 'a', 'b', '_']
    assert list(given['_']) == ['red', 'green', 'blue']
    assert {given[title][0].box for title in ('image', 'ground truth', 'a', 'b')} == {
        Box(10, 20, 30, 40)
    }
    assert given['b'][0].caption == 'mIoU 100.0'
    # No pair, no outline; no ground truth, no column and no score.
    given.clear()
    unlabelled = Scene('one', scene.image_HW3, None, scene.predictions)
    comparison_figure([unlabelled], ['b'], CLASSES, PALETTE)
    assert list(given) == ['image', 'b', '_']
    assert given['b'][0].box is None
    assert given['b'][0].caption == ''
    assert list(given['_']) == ['red']


def test_the_outline_is_drawn_where_the_difference_is() -> None:
    scene = scene_with_a_difference()
    arguments = ([scene], ['a', 'b'], CLASSES, PALETTE)
    plain = np.asarray(comparison_figure(*arguments, cell_width=80)).astype(int)
    outlined = np.asarray(comparison_figure(*arguments, ('a', 'b'), cell_width=80)).astype(int)
    changed = np.abs(outlined - plain).sum(axis=2) > 0
    corner_y = int(np.nonzero((plain[:, 12] == 77).all(axis=1))[0][0])
    for column in range(4):
        x = 2 + column * 82
        rows, columns = np.nonzero(changed[corner_y : corner_y + 60, x : x + 80])
        # Four pixels of outline around 10 to 29 and 20 to 39.
        assert (columns.min(), columns.max(), rows.min(), rows.max()) == (6, 33, 16, 43)
        assert not changed[corner_y + 20 : corner_y + 40, x + 10 : x + 30].any()
