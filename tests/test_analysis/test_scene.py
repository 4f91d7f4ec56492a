"""An image with ground truth and predictions."""

from __future__ import annotations

import numpy as np
import pytest

from mmseg_kd.analysis.scene import Scene, picture_miou


def test_miou_of_a_picture() -> None:
    label = np.array([[0, 0, 1, 255], [0, 0, 1, 255]], dtype=np.uint8)
    prediction = np.array([[0, 0, 0, 3], [0, 2, 1, 3]], dtype=np.uint8)
    # Class 0: 3 of 5; 1: 1 of 2; 2: 0 of 1; 3 is predicted where nothing is annotated.
    assert picture_miou(prediction, label) == pytest.approx((3 / 5 + 1 / 2 + 0) / 3)
    assert picture_miou(label, label) == 1
    assert np.isnan(picture_miou(prediction, np.full_like(label, 255)))


def test_the_image_comes_in_the_size_of_the_labels() -> None:
    image = np.zeros((4, 4, 3), dtype=np.uint8)
    image[:, 2:] = 200
    label = np.zeros((8, 8), dtype=np.uint8)
    scaled = Scene('a', image, label).at_label_size()
    assert scaled.shape == (8, 8, 3)
    assert scaled[4, 0].tolist() == [0, 0, 0]
    assert scaled[4, 7].tolist() == [200, 200, 200]
    assert Scene('a', image, label[:4, :4]).at_label_size() is image


def test_without_ground_truth_there_is_no_score() -> None:
    label = np.zeros((4, 4), dtype=np.uint8)
    image = np.zeros((4, 4, 3), dtype=np.uint8)
    assert Scene('a', image, None, {'x': label}).caption('x') == ''
    assert Scene('a', image, label, {'x': label}).caption('x') == 'mIoU 100.0'
