"""Which images the page shows, and how they are drawn."""

from __future__ import annotations

import base64
from dataclasses import replace
from io import BytesIO

import numpy as np
from PIL import Image

from mmseg_kd.report.measurement import Measurement
from mmseg_kd.report.pictures import LARGEST, _bounded, _labels, choose

BASE = Measurement(
    classes=['a'],
    palette=[[0, 0, 0]],
    counts=[],
    images=[f'{i}.jpg' for i in range(20)],
    right=[50] * 20,
    annotated=[100] * 20,
    size=[1, 1],
    parameters=1,
)


def test_gains_losses_and_the_rest_are_chosen() -> None:
    right = list(BASE.right)
    right[3], right[7], right[11], right[15] = 90, 60, 20, 40
    chosen = choose(6, replace(BASE, right=right), BASE, 'base')
    assert [index for index, _ in chosen[:4]] == [3, 7, 11, 15]
    assert chosen[0][1] == '+40.0 points of pixels right against base: among the largest gains'
    assert chosen[2][1].endswith(
        '30.0 points of pixels right against base: among the largest losses'
    )
    assert [why for _, why in chosen[4:]] == ['evenly spaced'] * 2
    assert len({index for index, _ in chosen}) == 6


def test_without_another_network_images_are_spread() -> None:
    assert [index for index, _ in choose(4, BASE)] == [2, 7, 12, 17]
    # What is measured on other images is no measure here, and equal networks differ nowhere.
    other = replace(BASE, images=['x.jpg'] * 20, right=[99] * 20)
    assert choose(4, BASE, other, 'other') == choose(4, BASE) == choose(4, BASE, BASE, 'same')
    assert len(choose(100, BASE)) == 20


def test_pictures_are_bounded_and_keep_their_classes() -> None:
    assert _bounded(2048, 1024) == (LARGEST, LARGEST // 2)
    assert _bounded(100, 50) == (100, 50)
    classes = np.zeros((1024, 2048), dtype=np.uint8)
    classes[:, 1024:] = 2
    classes[:8] = 255
    palette = [[10, 20, 30], [0, 0, 0], [200, 100, 50]]
    kind, _, content = _labels(classes, palette).partition(',')
    assert kind == 'data:image/png;base64'
    picture = Image.open(BytesIO(base64.b64decode(content))).convert('RGB')
    assert picture.size == (512, 256)
    assert {picture.getpixel(at) for at in ((0, 0), (0, 99), (500, 99))} == {
        (0, 0, 0), (10, 20, 30), (200, 100, 50),
    }  # fmt: skip
