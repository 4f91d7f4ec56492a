"""A teacher's class scores that were kept for each image, cut and turned as the image is.

`TrackPixels` behind the loading and `PackStoredScores` in the place of `PackSegInputs` bring them
into a batch; `mmseg-kd pseudo-label --scores` keeps them.

Reference: Yun et al., Re-labeling ImageNet: from Single to Multi-Labels, from Global to Localized
Labels, CVPR 2021, arXiv 2101.05022, which cuts the label of a crop from a map of the whole image.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
import torch.nn.functional as F
from mmcv.transforms import BaseTransform
from mmengine.structures import PixelData
from mmseg.datasets.transforms import PackSegInputs
from mmseg.registry import TRANSFORMS
from numpy.typing import NDArray
from torch import Tensor

from mmseg_kd.checks import is_integer
from mmseg_kd.errors import ConfigError, DatasetError, short_repr

# In a folder of scores or masks: what they were made with.
SETTINGS = 'pseudo_labels.json'
SUFFIX = '.npy'
# What `PackStoredScores` calls them in a data sample.
FIELD = 'teacher_scores'
_ORIGIN = 'pixel_origin'
_HOW = 'mmseg-kd pseudo-label CONFIG IMAGES FOLDER --scores'
WRITE_THEM = f'write what is missing with {_HOW}, which leaves what is there.'
# What is filled in from outside an image is 0 to 255 as in a mask, alone or mixed with its edge:
# places are so far from all that that they cannot be mistaken for it.
_SHIFT = 512.0


def to_stride(scores_CHW: Tensor, stride: int) -> NDArray[np.float16]:
    """Scores of an image, kept at one position for each square of `stride` pixels a side."""
    size = positions(scores_CHW.shape[-2:], stride)
    scores = F.interpolate(scores_CHW[None], size, mode='bilinear', antialias=True)[0]
    # Beyond this a softmax has no use for a difference.
    limit = torch.finfo(torch.float16).max
    kept: NDArray[np.float16] = scores.clamp(-limit, limit).half().cpu().numpy()
    return kept


def positions(size: Sequence[int], stride: int) -> list[int]:
    """How many squares of `stride` pixels a side cover a size, at the border in part."""
    return [-(-side // stride) for side in size]


@TRANSFORMS.register_module()
class TrackPixels(BaseTransform):
    """Keep where in the image each pixel was, whatever later transforms do to it.

    A map of places goes the way of the mask, as one of the `seg_fields`: through what resizes,
    crops, flips and turns with OpenCV. What changes the image and the mask alone leaves it behind:
    `Albu`, `RandomMosaic`, and `Pad`, for which the data preprocessor can pad.

    Raises:
        ConfigError: The image has been changed already.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add the map (H, W, 2) of x and y, from -1 to 1 between the edges of the image."""
        height, width = results['img'].shape[:2]
        if tuple(results['ori_shape'][:2]) != (height, width) or results.get('flip'):
            raise ConfigError(
                'TrackPixels: expected the image as it was loaded; put it right behind '
                'LoadAnnotations.'
            )
        x = (2 * np.arange(width, dtype=np.float32) + 1) / width - 1
        y = (2 * np.arange(height, dtype=np.float32) + 1) / height - 1
        results[_ORIGIN] = np.stack(np.meshgrid(x, y), axis=-1) + np.float32(_SHIFT)
        results['seg_fields'] = [*results.get('seg_fields', ()), _ORIGIN]
        return results


@TRANSFORMS.register_module()
class PackStoredScores(PackSegInputs):
    """`PackSegInputs` with a teacher's scores, which `teacher=dict(stored=True)` then takes.

    Each position of the map is read between the kept ones that it came from. What came in from
    outside the image has the least score of each class, so that no region of it stands out;
    `ignore_index=255` of a term leaves it out.

    Args:
        folder: What `mmseg-kd pseudo-label --scores` wrote.
        stride: Pixels of the student's image a side for each position of the map.
        images: The folder of images that the command was given, where it is elsewhere now; None:
            as it was.
        **kwargs: Those of `PackSegInputs`.

    Raises:
        ConfigError: `stride` is no whole number >= 1, the folder has no scores, it is not known
            where the pixels were, or labels were exchanged in a flip.
        DatasetError: There are no scores of an image, they cannot be read, or they are another's.
    """

    def __init__(
        self, folder: str, stride: int = 4, images: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if not (is_integer(stride) and stride >= 1):
            raise ConfigError(
                f'PackStoredScores: expected a whole number stride >= 1, got {short_repr(stride)}.'
            )
        self.folder, self.stride = Path(folder), stride
        about = _read_settings(self.folder)
        self.images = Path(about['images'] if images is None else images).resolve()
        self._kept_stride = int(about['stride'])
        self._about = dict(sha256=about['sha256'], stride=stride)

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Read, cut and pack."""
        origin = results.get(_ORIGIN)
        if origin is None or origin.shape[:2] != results['img'].shape[:2]:
            raise ConfigError(
                'PackStoredScores: expected to know where pixels were; put dict(type='
                "'TrackPixels') right behind the loading, and nothing between that leaves "
                'seg_fields as they are, such as Pad (data_preprocessor.size pads too) or Albu.'
            )
        if results.get('flip') and results.get('swap_seg_labels'):
            raise ConfigError(
                'PackStoredScores: stored scores do not know of swap_seg_labels, which exchanges '
                'classes in a flip; leave it out, or let the teacher run.'
            )
        scores = read_at(self._stored(results), origin, self.stride)
        packed: dict[str, Any] = super().transform(results)
        kept = PixelData(data=scores.half(), metainfo=self._about)
        packed['data_samples'].set_data({FIELD: kept})
        return packed

    def file_of(self, image: str) -> Path:
        """Where the scores of an image are.

        Raises:
            DatasetError: It is no image of the folder that they were kept of.
        """
        try:
            inner = _at_its_place(image).relative_to(self.images)
        except ValueError as error:
            raise DatasetError(
                f'{self.folder}: has scores of images in {self.images}, and none of {image}; keep '
                "those of this one's folder, or say images=... where it has been moved."
            ) from error
        return self.folder / inner.with_suffix(SUFFIX)

    def missing(self, images: Sequence[str]) -> Iterator[Path]:
        """Files that are not there, of what is to be trained on.

        Raises:
            DatasetError: As in `file_of`.
        """
        # A listing, for a look at each file takes minutes on a network's disk.
        there = set(self.folder.rglob(f'*{SUFFIX}'))
        yield from (file for file in map(self.file_of, images) if file not in there)

    def _stored(self, results: dict[str, Any]) -> Tensor:
        path = self.file_of(results['img_path'])
        try:
            scores = np.load(path)
        except FileNotFoundError as error:
            raise DatasetError(f'{path}: is missing; {WRITE_THEM}') from error
        except (OSError, ValueError, EOFError, BadZipFile) as error:
            raise DatasetError(
                f'{path}: cannot be read: {error}; delete it, and write it anew with {_HOW}.'
            ) from error
        expected = positions(results['ori_shape'][:2], self._kept_stride)
        if scores.ndim != 3 or list(scores.shape[1:]) != expected:
            raise DatasetError(
                f'{path}: has scores of shape {scores.shape}, and of {results["img_path"]} '
                f'expected are (C, {expected[0]}, {expected[1]}): they are of another image. '
                f'Delete it, and write it anew with {_HOW}.'
            )
        return torch.from_numpy(scores).float()


def _at_its_place(image: str) -> Path:
    """The path of an image without links to its folder."""
    folder, name = os.path.split(image)
    return _without_links(folder) / name


@lru_cache
def _without_links(folder: str) -> Path:
    # Once a folder, for each look takes its time on a network's disk.
    return Path(folder).resolve()


def _read_settings(folder: Path) -> dict[str, Any]:
    """What scores were made with."""
    try:
        about = json.loads((folder / SETTINGS).read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f'{folder}: expected a folder of scores; write it with {_HOW}.'
        ) from error
    if not (isinstance(about, dict) and {'stride', 'images', 'sha256'} <= about.keys()):
        raise ConfigError(f'{folder}: has no scores; write them with {_HOW}.')
    return about


def read_at(scores_CHW: Tensor, origin_HW2: NDArray[np.float32], stride: int) -> Tensor:
    """The map (C, h, w) of an image that has been changed, of `stride` pixels a position.

    Args:
        scores_CHW: Of the whole image as it was.
        origin_HW2: Where its pixels are from, as in `TrackPixels`.
        stride: As in `PackStoredScores`.
    """
    places = torch.from_numpy(np.ascontiguousarray(origin_HW2)).permute(2, 0, 1)
    # Positions lie at whole strides, whatever is left at the border: a batch goes on with them.
    height, width = places.shape[-2:]
    places = F.pad(places, (0, -width % stride, 0, -height % stride), mode='replicate')
    grid = F.avg_pool2d(places, stride).permute(1, 2, 0)[None] - _SHIFT
    # At the edge of the image a position is not between two: the nearest stands for both.
    found = F.grid_sample(scores_CHW[None], grid, padding_mode='border', align_corners=False)
    inside = (grid.abs() <= 1).all(-1)
    return torch.where(inside, found[0], scores_CHW.amin((1, 2))[:, None, None])
