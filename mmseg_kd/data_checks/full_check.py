"""Every file of a data set: what is wrong, and what the masks hold."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import DataLoader, Dataset

from mmseg_kd.data_checks.findings import Finding
from mmseg_kd.data_checks.image_file import damage_finding, picture_findings, squeezed_finding
from mmseg_kd.data_checks.loading import (
    Expected,
    is_local,
    leaves,
    loading_transforms,
    path_of,
    read,
    role_of,
)
from mmseg_kd.data_checks.preflight import check_list
from mmseg_kd.datasets.unlabelled import SUFFIXES, files_in
from mmseg_kd.errors import ConfigError

# Values of a mask of 8 bits.
_VALUES = 256


@dataclass
class Sample:
    """What was found of one sample.

    Args:
        image: The image's path.
        findings: What is wrong.
        size: Height and width of the image; None where it cannot be read.
        pixels: The mask's pixels of each value; None where it cannot be read.
        digest: A hash of the image's file; None where there is none.
    """

    image: str
    findings: list[Finding] = field(default_factory=list)
    size: tuple[int, int] | None = None
    pixels: npt.NDArray[np.int64] | None = None
    digest: bytes | None = None


class Samples(Dataset[Sample]):
    """Reads the samples of a data set, for the workers of a data loader.

    Args:
        dataset: A data set without wrappers.
        expected: What the network takes.
    """

    def __init__(self, dataset: Any, expected: Expected) -> None:
        self.dataset = dataset
        self.expected = expected
        self.loading = loading_transforms(dataset)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        data: dict[str, Any] = self.dataset.get_data_info(index)
        sample = Sample(str(data.get('img_path', '')))
        for transform in self.loading:
            role, path = role_of(transform), path_of(transform, data)
            loaded, findings = read(transform, data, self.expected)
            sample.findings += findings
            if loaded is None:
                continue
            data = loaded
            if is_local(transform, path):
                found = [damage_finding(role, path)]
                if role == 'image':
                    found += [*picture_findings(path), squeezed_finding(path, data['img'])]
                    content = Path(path).read_bytes()
                    sample.digest = hashlib.blake2b(content, digest_size=16).digest()
                sample.findings += filter(None, found)
        if 'img' in data:
            sample.size = tuple(data['ori_shape'])
        mask, ignored = data.get('gt_seg_map'), self.expected.ignored
        if mask is not None and mask.ndim == 2:
            sample.pixels = np.bincount(mask.ravel(), minlength=_VALUES)
            if _count_of(sample.pixels, ignored) == mask.size:
                path = str(data['seg_map_path'])
                text = f'holds {ignored} (ignored) only'
                sample.findings.append(Finding('blank', 'mask', path, text))
        return sample


def _count_of(pixels: npt.NDArray[np.int64], value: int) -> int:
    """Pixels of a value, which may be none that a mask can hold."""
    return int(pixels[value]) if 0 <= value < len(pixels) else 0


@dataclass
class Split:
    """What was found of a split.

    Args:
        name: 'train', 'val' or 'test'.
        classes: Names of the classes, in their order.
        sources: The data sets, each with the folder of its images.
        samples: How many there are.
        findings: What is wrong.
        sizes: How many images have a height and width.
        pixels: Pixels of each class.
        images: How many masks have each class.
        ignored: Pixels that are ignored.
        digests: Images by the hash of their file.
    """

    name: str
    classes: tuple[str, ...]
    sources: list[str] = field(default_factory=list)
    samples: int = 0
    findings: list[Finding] = field(default_factory=list)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    pixels: npt.NDArray[np.int64] = field(init=False)
    images: npt.NDArray[np.int64] = field(init=False)
    ignored: int = 0
    digests: dict[bytes, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.pixels = np.zeros(len(self.classes), np.int64)
        self.images = np.zeros(len(self.classes), np.int64)

    def add(self, sample: Sample, ignored: int) -> None:
        """Count a sample; `ignored` is the value of pixels without a class."""
        self.samples += 1
        self.findings += sample.findings
        if sample.size is not None:
            self.sizes[sample.size] += 1
        if sample.digest is not None:
            self.digests[sample.digest] = sample.image
        if sample.pixels is not None:
            of_classes = sample.pixels[: len(self.classes)]
            self.pixels += of_classes
            self.images += of_classes > 0
            self.ignored += _count_of(sample.pixels, ignored)

    def shares(self) -> npt.NDArray[np.float64]:
        """The share of each class in the pixels that have one; 0 where none has."""
        shares: npt.NDArray[np.float64] = self.pixels / max(int(self.pixels.sum()), 1)
        return shares

    @property
    def ignored_share(self) -> float:
        return self.ignored / max(self.ignored + int(self.pixels.sum()), 1)


class SplitCheck:
    """Reads every file of a split.

    Args:
        name: 'train', 'val' or 'test'.
        dataset: The data set, perhaps inside wrappers.
        num_classes: How many classes the network tells apart; None: not known.
        channels: Channels of an image that it takes; None: not known.

    Raises:
        DatasetError: The split, or a part of it, is empty.
        ConfigError: It has other classes than the network, or nothing that reads images.
    """

    def __init__(
        self, name: str, dataset: Any, num_classes: int | None, channels: int | None
    ) -> None:
        self.leaves = list(leaves(dataset))
        for leaf in self.leaves:
            if 'image' not in map(role_of, loading_transforms(leaf)):
                raise ConfigError(
                    f'{name} data: expected a pipeline with LoadImageFromFile; '
                    f'{type(leaf).__name__} has none, and its files cannot be checked.'
                )
            check_list(leaf, name, num_classes)
        classes = next((tuple(leaf.metainfo.get('classes') or ()) for leaf in self.leaves), ())
        if not classes:
            classes = tuple(f'class {index}' for index in range(num_classes or 0))
        self.channels = channels
        self.split = Split(name, classes, [_source(leaf) for leaf in self.leaves])

    def __len__(self) -> int:
        return sum(map(len, self.leaves))

    def run(self, workers: int) -> Iterator[Split]:
        """Read the files; after each sample what has been found so far.

        Args:
            workers: How many processes read; 0: this one does.
        """
        for leaf in self.leaves:
            self.split.findings += unlisted_findings(leaf)
            expected = Expected(
                len(self.split.classes) or None, getattr(leaf, 'ignore_index', 255), self.channels
            )
            loader = DataLoader(
                Samples(leaf, expected), batch_size=4, num_workers=workers, collate_fn=list
            )
            for samples in loader:
                for sample in samples:
                    self.split.add(sample, expected.ignored)
                    yield self.split
        present = np.flatnonzero(self.split.pixels)
        if len(present) == 1 and self.split.ignored:
            name = self.split.classes[present[0]]
            self.split.findings.append(
                Finding('single', 'class', name, 'is all there is, but for ignored pixels')
            )
        if self.split.pixels.any():
            self.split.findings += [
                Finding('absent', 'class', self.split.classes[index], 'has no pixel')
                for index in np.flatnonzero(self.split.pixels == 0)
            ]


def _source(dataset: Any) -> str:
    folder = getattr(dataset, 'data_prefix', {}).get('img_path')
    return f'{type(dataset).__name__}{f" in {folder}" if folder else ""}'


def unlisted_findings(dataset: Any) -> list[Finding]:
    """Files beside those that a data set lists: masks without an image, other suffixes.

    A data set with a list of its own (`ann_file`, `indices`) leaves files out on purpose.
    """
    prefix = getattr(dataset, 'data_prefix', {})
    if getattr(dataset, 'ann_file', '') or getattr(dataset, '_indices', None) is not None:
        return []
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    mask_suffix = getattr(dataset, 'seg_map_suffix', '').lower()
    masks = os.path.normpath(prefix.get('seg_map_path') or '')
    found = []
    for kind, role, key, ends, why in (
        ('unused', 'image', 'img_path', SUFFIXES, 'does not end with img_suffix'),
        ('unpaired', 'mask', 'seg_map_path', (mask_suffix,), 'has no image'),
    ):
        folder = prefix.get(key)
        if not folder or not ends[0] or not Path(folder).is_dir():
            continue
        listed = {os.path.normpath(info[key]) for info in infos if key in info}
        for path in sorted(map(os.path.normpath, files_in(folder))):
            if path.lower().endswith(ends) and path not in listed:
                # In one folder with the images, masks are no images that were forgotten.
                is_mask = path.lower().endswith(mask_suffix) and Path(path).is_relative_to(masks)
                if role == 'image' and mask_suffix and is_mask:
                    continue
                found.append(Finding(kind, role, path, why))
    return found


def shared_findings(splits: Mapping[str, Split]) -> dict[str, list[Finding]]:
    """Images of other splits that are in train as well, by split."""
    train = splits.get('train')
    if train is None:
        return {}
    return {
        name: [
            Finding('shared', 'image', image, f'is {train.digests[digest]} of train')
            for digest, image in split.digests.items()
            if digest in train.digests
        ]
        for name, split in splits.items()
        if name != 'train'
    }
