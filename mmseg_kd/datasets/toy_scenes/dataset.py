"""A small synthetic street and landscape data set, written and read in ADE20K's layout.

It trains a teacher and a student on a CPU in minutes and needs no download::

    from mmseg_kd.datasets.toy_scenes.dataset import generate
    generate('data/toy_scenes')
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS
from PIL import Image

from mmseg_kd.datasets.toy_scenes.canvas import CLASSES
from mmseg_kd.datasets.toy_scenes.drawing import draw_scene
from mmseg_kd.errors import DatasetError

__all__ = ['CLASSES', 'PALETTE', 'ToyScenesDataset', 'draw_scene', 'generate']

PALETTE: list[list[int]] = [
    [135, 190, 235],  # sky
    [110, 100, 120],  # road
    [150, 205, 80],  # grass
    [190, 90, 60],  # building
    [20, 110, 45],  # tree
    [30, 50, 200],  # car
    [230, 25, 75],  # person
    [245, 240, 235],  # pole
    [255, 200, 0],  # sign
    [0, 150, 160],  # water
    [200, 150, 255],  # fence
    [255, 120, 20],  # animal
]
STAMP = 'toy_scenes.json'
VERSION = 1  # raise it when the same seed gives other pictures
SPLITS = ('training', 'validation')  # their order is part of every picture's seed


def read_stamp(root: Path) -> dict[str, Any] | None:
    """The parameters a complete data set was made with; None where there is none."""
    try:
        stamp = json.loads((root / STAMP).read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return None
    return stamp if isinstance(stamp, dict) else None


def write_split(folder: Path, split: str, count: int, size: tuple[int, int], seed: int) -> None:
    """Draws and writes ``count`` pictures; picture i depends on (seed, split, i) alone."""
    images, masks = folder / 'images' / split, folder / 'annotations' / split
    images.mkdir(parents=True)
    masks.mkdir(parents=True)
    colours = [0, 0, 0, *(channel for colour in PALETTE for channel in colour)]
    for index in range(count):
        rng = np.random.default_rng([seed, SPLITS.index(split), index])
        image_HW3, mask_HW = draw_scene(rng, size)
        Image.fromarray(image_HW3).save(images / f'{index:05d}.jpg', quality=90)
        mask = Image.fromarray(mask_HW)
        mask.putpalette(colours)
        mask.save(masks / f'{index:05d}.png')


def generate(
    root: str | Path,
    train: int = 400,
    val: int = 100,
    size: tuple[int, int] = (128, 128),
    seed: int = 0,
) -> None:
    """Writes the data set, or does nothing where ``root`` already holds the same one.

    Folders are ``images/training``, ``images/validation`` (JPEG) and ``annotations/...``
    (palette PNG: 0 is unlabelled, class k is k + 1). Everything is written beside ``root``
    first and renamed when complete, so that ``root`` never holds half a data set.

    Args:
        root: folder of the data set.
        train, val: number of pictures for training and validation.
        size: height and width in pixels, at least 32 each.
        seed: not negative. More pictures of one seed begin with the same pictures.

    Raises:
        ValueError: a number is out of range, or ``root`` holds something else.
    """
    root = Path(root).absolute()
    if min(train, val, seed) < 0:
        raise ValueError(
            f'train, val and seed must not be negative, got {train}, {val} and {seed}.'
        )
    stamp = {'version': VERSION, 'train': train, 'val': val, 'size': list(size), 'seed': seed}
    if read_stamp(root) == stamp:
        return
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        found = read_stamp(root) or 'something that is no complete toy data set'
        raise ValueError(
            f'{root} should be free or hold the toy data set {stamp}, but holds {found}: '
            'delete it or choose another root.'
        )
    partial = root.with_name(f'.{root.name}.partial-{os.getpid()}')
    try:
        for split, count in zip(SPLITS, (train, val), strict=True):
            write_split(partial, split, count, size, seed)
        (partial / STAMP).write_text(json.dumps(stamp) + '\n', encoding='utf-8')
        if root.exists():
            root.rmdir()
        partial.rename(root)
    except OSError:
        # Another process may have finished the same data set in the meantime.
        if read_stamp(root) != stamp:
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def generate_or_say(
    root: str | Path, train: int, val: int, size: tuple[int, int], seed: int
) -> None:
    """As `generate`, for commands.

    Raises:
        DatasetError: A number is out of range, or ``root`` holds something else or cannot be
            written to.
    """
    try:
        generate(root, train, val, size, seed)
    except ValueError as error:
        raise DatasetError(str(error)) from error
    except OSError as error:
        text = f'{root}: cannot be written to: {error}; choose another folder.'
        raise DatasetError(text) from error


@DATASETS.register_module()
class ToyScenesDataset(BaseSegDataset):
    """The data set that :func:`generate` writes, 12 classes.

    Args:
        reduce_zero_label: maps the stored 0 to 255 (ignored) and k + 1 to k.
        **kwargs: handed to ``BaseSegDataset``, such as ``data_root`` and ``data_prefix``.
    """

    METAINFO: ClassVar[dict[str, Any]] = {'classes': CLASSES, 'palette': PALETTE}

    def __init__(self, reduce_zero_label: bool = True, **kwargs: Any) -> None:
        super().__init__(reduce_zero_label=reduce_zero_label, **kwargs)
