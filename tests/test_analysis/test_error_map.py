"""Error maps to the pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mmseg_kd.analysis import error_map
from mmseg_kd.analysis.error_map import (
    BOTH_WRONG,
    ONLY_FIRST,
    ONLY_SECOND,
    OUTCOMES,
    VOID_COLOUR,
    WRONG,
    dimmed,
    error_figure,
    outcomes,
    paint,
    shares,
)
from mmseg_kd.analysis.scene import Scene

LABEL = np.array([[0, 0, 1, 255], [1, 1, 2, 0]], dtype=np.uint8)
FIRST = np.array([[0, 1, 1, 255], [1, 2, 0, 0]], dtype=np.uint8)
SECOND = np.array([[0, 0, 2, 0], [0, 0, 1, 0]], dtype=np.uint8)
IMAGE = np.array([[[10, 200, 30]] * 4, [[90, 90, 90]] * 4], dtype=np.uint8)
PALETTE = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


@pytest.fixture
def scene() -> Scene:
    return Scene('name', IMAGE, LABEL, {'first': FIRST, 'second': SECOND})


def test_outcomes_pixel_by_pixel() -> None:
    words = [[OUTCOMES[code] for code in row] for row in outcomes(FIRST, SECOND, LABEL)]
    assert words == [
        ['both right', 'only second', 'only first', 'void'],
        ['only first', 'both wrong', 'both wrong', 'both right'],
    ]


def test_shares_are_of_the_annotated_pixels() -> None:
    expected = {'both right': 2, 'only first': 2, 'only second': 1, 'both wrong': 2}
    found = shares(outcomes(FIRST, SECOND, LABEL))
    assert found == {name: count / 7 for name, count in expected.items()} | {'void': 1 / 8}


def test_codes_are_painted_over_the_dimmed_image() -> None:
    light = dimmed(IMAGE).tolist()
    assert light[1][0] == [181, 181, 181]  # 255 - 0.45 * (255 - 90)
    codes = np.array([[0, 1, 0, 2], [0, 0, 1, 1]], dtype=np.uint8)
    assert paint(codes, IMAGE, ((9, 9, 9), WRONG, VOID_COLOUR)).tolist() == [
        [light[0][0], list(WRONG), light[0][2], list(VOID_COLOUR)],
        [light[1][0], light[1][1], list(WRONG), list(WRONG)],
    ]


def test_the_figure_says_who_is_right(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def keep(columns: Any, legend: Any, cell_width: int) -> None:
        given.update(columns=columns, legend=legend)

    monkeypatch.setattr(error_map, 'draw_grid', keep)
    error_figure([scene, scene], ['first', 'second'], PALETTE, ('first', 'second'))
    columns = given['columns']
    names = ['image', 'ground truth', 'first: errors', 'second: errors', 'first against second']
    assert list(columns) == names
    assert [cell.caption for cell in columns['first: errors']] == ['wrong 42.9 %'] * 2
    light = dimmed(IMAGE).tolist()
    assert columns['first: errors'][0].picture.tolist() == [
        [light[0][0], list(WRONG), light[0][2], list(VOID_COLOUR)],
        [light[1][0], list(WRONG), list(WRONG), light[1][3]],
    ]
    last = columns['first against second'][0]
    assert last.caption == 'only first 28.6 %, only second 14.3 %'
    assert last.picture.tolist() == [
        [light[0][0], list(ONLY_SECOND), list(ONLY_FIRST), list(VOID_COLOUR)],
        [list(ONLY_FIRST), list(BOTH_WRONG), list(BOTH_WRONG), light[1][3]],
    ]
    assert list(given['legend']) == [
        'wrong (first 42.9 %, second 57.1 %)',
        'both right 28.6 %',
        'only first right 28.6 %',
        'only second right 14.3 %',
        'both wrong 28.6 %',
        'void 12.5 %',
    ]
    # One network alone, and no void.
    whole = Scene('name', IMAGE, FIRST.clip(0, 2), {'first': FIRST.clip(0, 2)})
    error_figure([whole], ['first'], PALETTE)
    assert list(given['legend']) == ['wrong (first 0.0 %)']
