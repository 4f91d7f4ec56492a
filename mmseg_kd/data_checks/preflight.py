"""What is checked of the data before the first batch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmseg.registry import DATASETS

from mmseg_kd.data_checks.findings import SEE_ALL, Finding
from mmseg_kd.data_checks.image_file import file_finding
from mmseg_kd.data_checks.loading import (
    Expected,
    is_local,
    leaves,
    loading_transforms,
    path_of,
    read,
    role_of,
)
from mmseg_kd.errors import ConfigError, DatasetError
from mmseg_kd.host.quiet import explain

# Samples that are read of each data set: enough to find a wrong convention, not to find every
# broken file, and a matter of a second. mmseg-kd check-data reads them all.
SAMPLED = 32


def check_dataset(cfg: Any, split: str, num_classes: int, tolerated: int = 0) -> None:
    """Build a data set, look at its list of files and read some of them.

    Args:
        cfg: The data set's config.
        split: 'train', 'val' or 'test', for messages.
        num_classes: How many classes the network tells apart.
        tolerated: How many bad samples there may be.

    Raises:
        DatasetError: It is empty, files are missing or unreadable, image and mask do not fit, or
            a mask holds a value that is neither a class nor the ignored label.
        ConfigError: It has another number of classes than the network.
    """
    for leaf in leaves(build_dataset(cfg, split)):
        if hasattr(leaf, 'get_data_info'):
            check_list(leaf, split, num_classes)
            _check_files(leaf, split, num_classes, tolerated)


def build_dataset(cfg: Any, split: str) -> Any:
    """Build a data set without its batches.

    Args:
        cfg: The data set's config.
        split: 'train', 'val' or 'test', for messages.

    Raises:
        DatasetError: It has no files.
        ConfigError: The hosts refuse the config.
    """
    try:
        return DATASETS.build(cfg)
    except (FileNotFoundError, NotADirectoryError, AssertionError) as error:
        raise DatasetError(
            f'{split} data: {error}. Prepare the data as docs/data.md shows, or set data_root.'
        ) from error
    except Exception as error:  # whatever a data set's class raises
        if 'need at least one array to concatenate' in str(error):
            # An empty list of files, which mmengine cannot pack.
            raise DatasetError(
                f'{split} data: found no images in {_image_folder(cfg)!r}. Prepare the data as '
                'docs/data.md shows, or set data_root and img_suffix.'
            ) from error
        raise ConfigError(f'{split} data: {explain(error)}') from error


def _image_folder(cfg: Any) -> str:
    """Where a data set's config, or the one that it wraps, says that the images are."""
    while 'dataset' in cfg:
        cfg = cfg['dataset']
    return str(Path(cfg.get('data_root') or '', (cfg.get('data_prefix') or {}).get('img_path', '')))


def check_list(dataset: Any, split: str, num_classes: int | None) -> None:
    """See that a data set lists files, and the network's classes.

    Args:
        dataset: A data set without wrappers.
        split: 'train', 'val' or 'test', for messages.
        num_classes: How many classes the network tells apart; None: not known.

    Raises:
        DatasetError: It is empty.
        ConfigError: It has another number of classes.
    """
    name = type(dataset).__name__
    if len(dataset) == 0:
        folder = getattr(dataset, 'data_prefix', {}).get('img_path', '')
        suffix = getattr(dataset, 'img_suffix', '')
        raise DatasetError(
            f'{split} data: {name} found no *{suffix} images in {folder!r}. Prepare the data as '
            'docs/data.md shows, or set data_root.'
        )
    classes = dataset.metainfo.get('classes')
    if None not in (classes, num_classes) and len(classes) != num_classes:
        raise ConfigError(
            f'{split} data: {name} has {len(classes)} classes and the network num_classes='
            f'{num_classes}; set num_classes of its heads to {len(classes)}.'
        )


def _check_files(dataset: Any, split: str, num_classes: int, tolerated: int) -> None:
    """Look whether all files are there, and read some."""
    loading = loading_transforms(dataset)
    missing = list(missing_files(dataset, loading))
    if len(missing) > tolerated:
        count = f'{len(missing)} files are missing; the first: ' if len(missing) > 1 else ''
        raise DatasetError(f'{split} data: {count}{missing[0]} {SEE_ALL}')
    expected = Expected(num_classes, getattr(dataset, 'ignore_index', 255))
    chosen = np.linspace(0, len(dataset) - 1, min(len(dataset), SAMPLED)).astype(int)
    found = (first_finding(dataset.get_data_info(int(i)), loading, expected) for i in chosen)
    bad = [finding for finding in found if finding is not None]
    # However many may be bad: where all are, the data are not what the config says.
    if len(bad) > tolerated or len(bad) == len(chosen):
        count = f'{len(bad)} of {len(chosen)} samples are bad; the first: ' if len(bad) > 1 else ''
        raise DatasetError(f'{split} data: {count}{bad[0]} {SEE_ALL}')


def missing_files(dataset: Any, loading: Sequence[Any]) -> Iterator[Finding]:
    """The images and masks that a data set lists and that are not on the disk.

    Args:
        dataset: A data set without wrappers.
        loading: Its loading transforms.
    """
    # One listing a folder: on a network's disk a look at each file would take minutes.
    folders: dict[str, set[str]] = {}
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        for transform in loading:
            path = path_of(transform, info)
            if not is_local(transform, path):
                continue
            folder, name = os.path.split(path)
            if folder not in folders:
                folders[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
            if name not in folders[folder]:
                # The disk has the last word: some know a file by names of another case or form.
                finding = file_finding(role_of(transform), path)
                if finding is not None and finding.kind == 'missing':
                    yield finding


def first_finding(
    info: dict[str, Any], loading: Sequence[Any], expected: Expected
) -> Finding | None:
    """What is wrong with a sample, the first thing only.

    Args:
        info: The sample as its data set lists it.
        loading: The data set's loading transforms.
        expected: What the network takes.
    """
    data: dict[str, Any] | None = info
    for transform in loading:
        if data is None:
            return None
        data, findings = read(transform, data, expected)
        if findings:
            return findings[0]
    return None
