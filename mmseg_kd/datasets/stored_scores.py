"""A teacher's class scores that were kept for each image, cut and turned as the image is.

`TrackPixels` behind the loading and `PackStoredScores` in the place of `PackSegInputs` bring them
into a batch; `mmseg-kd pseudo-label --scores` keeps them.

Reference: Yun et al., Re-labeling ImageNet: from Single to Multi-Labels, from Global to Localized
Labels, CVPR 2021, arXiv 2101.05022, which cuts the label of a crop from a map of the whole image.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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


def to_stride(scores_CHW: Tensor, stride: int) -> NDArray[np.float16]:
    """Scores of an image, kept at one position for each square of `stride` pixels a side."""
    size = [-(-side // stride) for side in scores_CHW.shape[-2:]]
    scores = F.interpolate(scores_CHW[None], size, mode='bilinear', antialias=True)[0]
    kept: NDArray[np.float16] = scores.half().cpu().numpy()
    return kept


@TRANSFORMS.register_module()
class TrackPixels(BaseTransform):
    """Keep where in the image each pixel was, whatever later transforms do to it.

    A map of places goes the way of the mask, as one of the `seg_fields`: through what resizes,
    crops, flips and turns. What changes the image and the mask alone leaves it behind: `Albu`
    and `Pad`, for which the data preprocessor can pad.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add the map (H, W, 2) of x and y, from -1 to 1 between the edges of the image."""
        height, width = results['img'].shape[:2]
        x = (2 * np.arange(width, dtype=np.float32) + 1) / width - 1
        y = (2 * np.arange(height, dtype=np.float32) + 1) / height - 1
        results[_ORIGIN] = np.stack(np.meshgrid(x, y), axis=-1)
        results['seg_fields'] = [*results.get('seg_fields', ()), _ORIGIN]
        return results


@TRANSFORMS.register_module()
class PackStoredScores(PackSegInputs):
    """`PackSegInputs` with a teacher's scores, which `teacher=dict(stored=True)` then takes.

    Each position of the map is read between the kept ones that it came from. What came in from
    outside the image has the score 0 for each class.

    Args:
        folder: What `mmseg-kd pseudo-label --scores` wrote.
        stride: Pixels of the student's image a side for each position of the map.
        **kwargs: Those of `PackSegInputs`.

    Raises:
        ConfigError: `stride` is no whole number >= 1, the folder has no scores, or there is no
            `TrackPixels` before.
        DatasetError: There are no scores of an image, or they cannot be read.
    """

    def __init__(self, folder: str, stride: int = 4, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not (is_integer(stride) and stride >= 1):
            raise ConfigError(
                f'PackStoredScores: expected a whole number stride >= 1, got {short_repr(stride)}.'
            )
        self.folder, self.stride = Path(folder), stride
        self._about = dict(sha256=_weights_of(self.folder), stride=stride)

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Read, cut and pack."""
        origin = results.get(_ORIGIN)
        if origin is None or origin.shape[:2] != results['img'].shape[:2]:
            raise ConfigError(
                'PackStoredScores: expected to know where pixels were; put dict(type='
                "'TrackPixels') right behind the loading, and nothing between that leaves "
                'seg_fields as they are, such as Pad (data_preprocessor.size pads too) or Albu.'
            )
        scores = read_at(self._stored(results['img_path']), origin, self.stride)
        packed: dict[str, Any] = super().transform(results)
        packed['data_samples'].set_data({FIELD: PixelData(data=scores, metainfo=self._about)})
        return packed

    def _stored(self, image: str) -> Tensor:
        path = self.folder / (Path(image).stem + SUFFIX)
        try:
            return torch.from_numpy(np.load(path)).float()
        except FileNotFoundError as error:
            raise DatasetError(
                f'{path}: there are no scores of {image}; write them with {_HOW}, which leaves '
                'those that are there.'
            ) from error
        except (OSError, ValueError, TypeError) as error:
            raise DatasetError(
                f'{path}: cannot be read: {error}; delete it, and write it anew with {_HOW}.'
            ) from error


def _weights_of(folder: Path) -> str:
    """The SHA-256 of the weights that scores are from; '' where they came with their network."""
    try:
        about = json.loads((folder / SETTINGS).read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f'{folder}: expected a folder of scores; write it with {_HOW}.'
        ) from error
    if about.get('stride') is None:
        raise ConfigError(f'{folder}: has masks and no scores; write them with {_HOW}.')
    return about['sha256'] or ''


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
    grid = F.avg_pool2d(places, stride).permute(1, 2, 0)[None]
    # At the edge of the image a position is not between two: the nearest stands for both.
    found = F.grid_sample(scores_CHW[None], grid, padding_mode='border', align_corners=False)
    return found[0] * (grid.abs() <= 1).all(-1)
