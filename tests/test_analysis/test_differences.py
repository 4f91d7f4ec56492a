"""Which images show a difference, and where in them it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import build, preprocessor, resnet, write_dataset
from hypothesis import given
from hypothesis import strategies as st
from mmengine.structures import PixelData
from mmseg.registry import DATASETS

from mmseg_kd.analysis.differences import (
    Box,
    choose_images,
    difference,
    differing,
    evenly_spaced,
    largest_region,
    most_different,
)


def labels(*rows: list[int]) -> Any:
    return np.array(rows, dtype=np.uint8)


LABEL = labels([0, 0, 1, 255], [1, 1, 2, 255])
FIRST = labels([0, 1, 1, 0], [1, 2, 0, 0])
SECOND = labels([0, 0, 2, 1], [0, 0, 1, 0])


def test_one_right_and_one_wrong() -> None:
    # Both right, second right, first right, void; first right, both wrong and unlike, the same.
    expected = [[False, True, True, False], [True, False, False, False]]
    assert differing(FIRST, SECOND, LABEL).tolist() == expected
    assert difference(FIRST, SECOND, LABEL) == 3 / 6


def test_without_ground_truth_all_that_differs_counts() -> None:
    expected = [[False, True, True, True], [True, True, True, False]]
    assert differing(FIRST, SECOND, None).tolist() == expected
    assert difference(FIRST, SECOND, None) == 6 / 8


def test_a_picture_of_void_alone_shows_no_difference() -> None:
    void = np.full_like(LABEL, 255)
    assert difference(FIRST, SECOND, void) == 0


def test_the_largest_region_is_boxed() -> None:
    mask = np.zeros((100, 120), dtype=bool)
    mask[10:30, 40:55] = True
    mask[60:70, 5:15] = True
    assert largest_region(mask) == Box(40, 10, 55, 30)
    # At the border too.
    mask[80:, 90:] = True
    assert largest_region(mask) == Box(90, 80, 120, 100)


def test_diagonal_neighbours_are_one_region() -> None:
    mask = np.zeros((40, 40), dtype=bool)
    mask[0:10, 0:10] = mask[10:20, 10:20] = mask[25:37, 25:37] = True
    assert largest_region(mask) == Box(0, 0, 20, 20)


def test_strips_count_only_where_there_is_nothing_else() -> None:
    mask = np.zeros((200, 200), dtype=bool)
    mask[0:4, :] = True  # 800 pixels along the border, thinner than 5
    assert largest_region(mask) == Box(0, 0, 200, 4)
    mask[100:110, 50:60] = True
    assert largest_region(mask) == Box(50, 100, 60, 110)


def test_nothing_differs() -> None:
    assert largest_region(np.zeros((20, 20), dtype=bool)) is None


def test_images_are_spread_over_the_list() -> None:
    differences = [0.1, 0.9, 0.8, 0.2, 0.3, 0.3, 0.0, 0.0, 0.1, 0.0, 0.0, 0.0]
    # The third best is a neighbour of the best, and left out.
    assert most_different(differences, 3) == [1, 4, 8]
    assert most_different(differences, 1) == [1]
    assert most_different([0.2, 0.1], 5) == [0, 1]
    assert most_different([], 2) == []


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), max_size=40), st.integers(1, 12))
def test_as_many_images_as_asked_for_and_none_twice(differences: list[float], count: int) -> None:
    chosen = most_different(differences, count)
    assert len(set(chosen)) == len(chosen) == min(count, len(differences))
    assert not differences or max(differences) in [differences[i] for i in chosen]


def test_even_spacing_has_both_ends() -> None:
    assert evenly_spaced(101, 3) == [0, 50, 100]
    assert evenly_spaced(3, 8) == [0, 1, 2]
    assert evenly_spaced(5, 1) == [0]


@pytest.fixture
def dataset(tmp_path: Path) -> Any:
    write_dataset(tmp_path, val=5)
    transforms = ('LoadImageFromFile', 'LoadAnnotations', 'PackSegInputs')
    return DATASETS.build(
        dict(
            type='BaseSegDataset',
            data_root=str(tmp_path),
            data_prefix=dict(img_path='images/val', seg_map_path='annotations/val'),
            metainfo=dict(classes=tuple('abcde')),
            pipeline=[dict(type=name) for name in transforms],
        )
    )


def test_the_image_with_the_difference_is_chosen(dataset: Any) -> None:
    first, second = (build(resnet(data_preprocessor=preprocessor(size=None))) for _ in range(2))
    images = [dataset[index]['inputs'] for index in range(5)]

    def is_other(given: Any, index: int) -> bool:
        return bool((given[0] == images[index]).all())

    # The second finds nothing but class 0, unless it gets the image with index 3.
    for network in (first, second):
        network.test_step = lambda data, network=network: _constant(
            data, 1 if network is second and is_other(data['inputs'], 3) else 0
        )
    assert choose_images(first, second, dataset, count=1, sample=5) == [3]
    assert choose_images(first, second, dataset, count=1, sample=3) == [0]  # of 0, 2, 4
    assert choose_images(first, second, dataset, count=2, sample=1) == [0, 4]


def _constant(data: Any, value: int) -> Any:
    [sample] = data['data_samples']
    labels = sample.gt_sem_seg.data
    sample.pred_sem_seg = PixelData(data=labels * 0 + value)
    return [sample]
