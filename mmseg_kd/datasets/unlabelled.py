"""Images without masks, alone or beside images that have them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.dataset import ConcatDataset
from mmengine.dist import get_dist_info, sync_random_seed
from mmengine.registry import DATA_SAMPLERS
from mmseg.datasets import BaseSegDataset
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import DATASETS
from torch.utils.data import Sampler

from mmseg_kd.checks import is_integer
from mmseg_kd.errors import ConfigError, DatasetError, short_repr

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff')

# What an image without a mask has as its path.
NO_MASK = ''


def files_in(folder: str | Path) -> Iterator[str]:
    """The files in a folder and in folders of it, without hidden ones.

    A Mac leaves a hidden file, ._NAME.jpg, beside each on other disks, which is no picture.
    """
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith('.')]
        yield from (os.path.join(parent, name) for name in names if not name.startswith('.'))


def pictures_in(folder: Path) -> list[Path]:
    """The pictures among `files_in` it."""
    return sorted(path for path in map(Path, files_in(folder)) if path.suffix.lower() in SUFFIXES)


class _BlankMask(BaseTransform):
    """A mask in which all is ignored, so that what crops and pads images finds one."""

    def __init__(self, ignored: int) -> None:
        self.ignored = ignored

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        results['gt_seg_map'] = np.full(results['img'].shape[:2], self.ignored, np.uint8)
        results['seg_fields'].append('gt_seg_map')
        return results


@DATASETS.register_module()
class UnlabelledDataset(BaseSegDataset):
    """A folder of images without masks, for what a teacher says of them.

    All pictures in the folder and in folders of it are taken. The pipeline is that of images with
    masks: where these are loaded, a mask comes in which all is ignored. The student's own loss
    leaves the images out; terms count all of their pixels.

    Args:
        img_path: The folder.
        **kwargs: Those of `BaseSegDataset`, such as `data_root` and `pipeline`.

    Raises:
        DatasetError: There is no such folder, or no picture in it.
    """

    def __init__(self, img_path: str, **kwargs: Any) -> None:
        super().__init__(data_prefix=dict(img_path=img_path), **kwargs)
        transforms = self.pipeline.transforms
        for index, transform in enumerate(transforms):
            keys = getattr(transform, 'meta_keys', None)
            if keys is not None and 'seg_map_path' not in keys:
                # It tells these images from those with masks.
                transform.meta_keys = (*keys, 'seg_map_path')
            if isinstance(transform, LoadAnnotations):
                transforms[index] = _BlankMask(self.ignore_index)

    def load_data_list(self) -> list[dict[str, Any]]:
        """The images, by their paths."""
        folder = Path(self.data_prefix['img_path'])
        found = pictures_in(folder)
        if not found:
            raise DatasetError(
                f'{folder}: expected a folder of pictures, and there are none; they end in '
                f'{", ".join(SUFFIXES)}.'
            )
        return [
            dict(img_path=str(path), seg_map_path=NO_MASK, reduce_zero_label=False, seg_fields=[])
            for path in found
        ]


@DATASETS.register_module()
class MixedDataset(ConcatDataset):
    """Data sets one after another, of which the first says what the classes are.

    Args:
        datasets: Images with masks first, then `UnlabelledDataset`.
    """

    def __init__(self, datasets: Sequence[Mapping[str, Any]]) -> None:
        about = ['classes', 'palette', 'label_map', 'reduce_zero_label']
        super().__init__(datasets, ignore_keys=about)


@DATA_SAMPLERS.register_module()
class MixedSampler(Sampler[int]):
    """Goes through several data sets for ever, so many images of each in a batch.

    Each data set is shuffled anew whenever its images have all been drawn; ranks share them.

    Args:
        dataset: A `MixedDataset`.
        ratio: How many images of each data set come in turn: with (1, 3) and a batch of 8 two of
            the first and six of the second. The batch size is a multiple of their sum.
        seed: Of the order; None: drawn, the same on all ranks.

    Raises:
        ConfigError: There is not one whole number >= 1 for each data set.
    """

    def __init__(
        self, dataset: ConcatDataset, ratio: Sequence[int], seed: int | None = None
    ) -> None:
        sizes = [len(one) for one in getattr(dataset, 'datasets', ())]
        if len(ratio) != len(sizes) or not all(is_integer(one) and one >= 1 for one in ratio):
            raise ConfigError(
                f'MixedSampler: ratio: expected a whole number >= 1 for each of {len(sizes)} data '
                f'sets of a MixedDataset, got {short_repr(ratio)}.'
            )
        self.ratio = tuple(ratio)
        self.seed: int = sync_random_seed() if seed is None else seed
        self._sizes = sizes
        self._rank, self._ranks = get_dist_info()
        self._indices = self._all()

    def _all(self) -> Iterator[int]:
        starts = itertools.accumulate(self._sizes, initial=0)
        streams = [
            itertools.islice(self._shuffled(number, start, size), self._rank, None, self._ranks)
            for number, (start, size) in enumerate(zip(starts, self._sizes, strict=False))
        ]
        while True:
            for stream, count in zip(streams, self.ratio, strict=True):
                yield from itertools.islice(stream, count)

    def _shuffled(self, number: int, start: int, size: int) -> Iterator[int]:
        generator = np.random.default_rng((self.seed, number))
        while True:
            yield from (start + generator.permutation(size)).tolist()

    def __iter__(self) -> Iterator[int]:
        yield from self._indices

    def skip(self, num_samples: int) -> None:
        """Begin after the first `num_samples` of this rank, where a resumed run goes on."""
        self._indices = itertools.islice(self._all(), num_samples, None)

    def set_epoch(self, epoch: int) -> None:
        """There are no epochs."""

    def __len__(self) -> int:
        return sum(self._sizes)
