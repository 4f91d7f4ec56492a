"""CamVid with the 11 classes of SegNet (Brostow et al. 2009; Badrinarayanan et al. 2017)."""

from __future__ import annotations

from typing import ClassVar

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

CLASSES: tuple[str, ...] = (
    'Sky',
    'Building',
    'Pole',
    'Road',
    'Pavement',
    'Tree',
    'SignSymbol',
    'Fence',
    'Car',
    'Pedestrian',
    'Bicyclist',
)
PALETTE: list[list[int]] = [
    [128, 128, 128],
    [128, 0, 0],
    [192, 192, 128],
    [128, 64, 128],
    [60, 40, 222],
    [128, 128, 0],
    [192, 128, 128],
    [64, 64, 128],
    [64, 0, 128],
    [64, 64, 0],
    [0, 128, 192],
]


@DATASETS.register_module()
class CamVidDataset(BaseSegDataset):
    """CamVid in the layout that `mmseg-kd convert-camvid` writes.

    Masks are palette PNGs with the class index 0..10 and 255 for void. Arguments are those of
    `BaseSegDataset`, such as `data_root` and `data_prefix`.
    """

    METAINFO: ClassVar = dict(classes=CLASSES, palette=PALETTE)
