"""What is checked of the data before the first batch."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log
from mmseg.registry import DATASETS

from mmseg_kd.data_checks.findings import SEE_ALL, Finding
from mmseg_kd.data_checks.heads import Head
from mmseg_kd.data_checks.image_file import file_finding, squeezed_finding
from mmseg_kd.data_checks.loading import (
    Expected,
    is_local,
    leaves,
    loading_transforms,
    path_of,
    read,
    role_of,
)
from mmseg_kd.datasets.stored_scores import WRITE_THEM, PackStoredScores
from mmseg_kd.errors import ConfigError, DatasetError, KDError
from mmseg_kd.host.quiet import explain

# Samples that are read of each data set: enough to find a wrong convention, not to find every
# broken file, and a matter of a second. mmseg-kd check-data reads them all.
SAMPLED = 32


# Masks that are read before it is said that all hold one class: it may be rare objects.
_MASKS_FOR_SURE = 512

# Names of classes that a message lists.
_NAMED = 8


def check_dataset(
    cfg: Any,
    split: str,
    num_classes: int,
    tolerated: int = 0,
    heads: Sequence[Head] | None = None,
) -> Any:
    """Build a data set, look at its list of files and read some of them.

    Args:
        cfg: The data set's config.
        split: 'train', 'val' or 'test', for messages.
        num_classes: How many classes the network tells apart.
        tolerated: How many bad samples there may be.
        heads: What is going to learn from it; None: it is not for training, so that what would
            only spoil that is a warning.

    Returns:
        The data set.

    Raises:
        DatasetError: It is empty, files are missing or unreadable, image and mask do not fit, a
            mask holds a value that is neither a class nor the ignored label, or one that a head
            does not take; or there is nothing to learn in it: one class, and images that reading
            makes black.
        ConfigError: It has another number of classes than the network or one of `heads`.
    """
    dataset = build_dataset(cfg, split)
    parts = [leaf for leaf in leaves(dataset) if hasattr(leaf, 'get_data_info')]
    seen = Seen()
    for leaf in parts:
        check_list(leaf, split, num_classes, heads or ())
        expected = Expected(
            num_classes, getattr(leaf, 'ignore_index', 255), heads=tuple(heads or ())
        )
        _check_files(leaf, split, expected, tolerated, seen, heads is not None)
    _check_classes(parts, split, num_classes, seen, heads)
    return dataset


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
    except KDError as error:  # of a transform of this package
        raise type(error)(f'{split} data: {error}') from error
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


def check_list(
    dataset: Any, split: str, num_classes: int | None, heads: Sequence[Head] = ()
) -> None:
    """See that a data set lists files, and the network's classes.

    Args:
        dataset: A data set without wrappers.
        split: 'train', 'val' or 'test', for messages.
        num_classes: How many classes the network tells apart; None: not known.
        heads: The heads that learn from it.

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
    if num_classes is None:
        return
    count = num_classes if classes is None else len(classes)
    wrong = {
        head.name: head.num_classes
        for head in heads
        if head.num_classes != count and head.setting == 'ignore_index'
    }
    if num_classes != count and num_classes not in wrong.values():
        wrong['the network'] = num_classes
    if wrong:
        found = ' and '.join(f'{place} num_classes={number}' for place, number in wrong.items())
        owner = f'{name} has {count} classes' if classes else f'the network has {count} classes'
        raise ConfigError(
            f'{split} data: {owner} and {found}; set num_classes of its heads to {count}.'
        )


@dataclass
class Seen:
    """What the masks hold that were read.

    Args:
        masks: How many were.
        labels: The classes that have a pixel in one.
        ignored: The values of pixels that are ignored.
    """

    masks: int = 0
    labels: set[int] = field(default_factory=set)
    ignored: set[int] = field(default_factory=set)

    def add(self, data: dict[str, Any], expected: Expected) -> None:
        """Look at a mask."""
        self.masks += 1
        values = set(np.flatnonzero(np.bincount(data['gt_seg_map'].ravel())).tolist())
        self.ignored |= values & {expected.ignored}
        self.labels |= values - {expected.ignored}


def _check_files(
    dataset: Any, split: str, expected: Expected, tolerated: int, seen: Seen, for_training: bool
) -> None:
    """Look whether all files are there, and read some."""
    loading = loading_transforms(dataset)
    missing = list(missing_files(dataset, loading))
    if len(missing) > tolerated:
        count = f'{len(missing)} files are missing; the first: ' if len(missing) > 1 else ''
        raise DatasetError(f'{split} data: {count}{missing[0]} {SEE_ALL}')
    _check_stored_scores(dataset, split)
    chosen = _spread(dataset, SAMPLED)
    samples = [first_finding(dataset.get_data_info(i), loading, expected, seen) for i in chosen]
    dark = [finding for finding in samples if finding is not None and finding.kind == 'squeezed']
    bad = [finding for finding in samples if finding is not None and finding.kind != 'squeezed']
    # A night is dark too, but not all images are taken by night.
    if len(dark) == len(chosen):
        _say(split, f'{dark[0]}', for_training)
    # However many may be bad: where all are, the data are not what the config says.
    if len(bad) > tolerated or len(bad) == len(chosen):
        count = f'{len(bad)} of {len(chosen)} samples are bad; the first: ' if len(bad) > 1 else ''
        raise DatasetError(f'{split} data: {count}{bad[0]} {SEE_ALL}')


def _check_stored_scores(dataset: Any, split: str) -> None:
    """See that there are scores of all images where a teacher's are read."""
    for transform in getattr(getattr(dataset, 'pipeline', None), 'transforms', ()):
        if not isinstance(transform, PackStoredScores):
            continue
        images = [str(dataset.get_data_info(index)['img_path']) for index in range(len(dataset))]
        missing = list(transform.missing(images))
        if missing:
            raise DatasetError(
                f'{split} data: {len(missing)} of {len(images)} images have no scores; the first: '
                f'{missing[0]} is missing; {WRITE_THEM}'
            )


def _spread(dataset: Any, number: int) -> list[int]:
    """Indices of so many samples from end to end."""
    indices = np.linspace(0, len(dataset) - 1, min(len(dataset), number)).astype(int)
    return [int(index) for index in indices]


def _say(split: str, what: str, as_error: bool) -> None:
    if as_error:
        raise DatasetError(f'{split} data: {what}')
    print_log(f'{split} data: {what}', logger='current', level=logging.WARNING)


def _check_classes(
    parts: Sequence[Any], split: str, num_classes: int, seen: Seen, heads: Sequence[Head] | None
) -> None:
    """See which classes have a pixel, in all parts of a split together."""
    if not seen.masks:
        return
    if len(seen.labels) == 1 and seen.ignored:
        _read_on(parts, num_classes, seen)
    total = sum(map(len, parts))
    named = next((leaf.metainfo.get('classes') for leaf in parts), None) or range(num_classes)
    if len(seen.labels) == 1 and seen.ignored:
        [label], [ignored, *_] = seen.labels, seen.ignored
        alone = (
            f'is all there is in the masks that were read ({seen.masks} of {total}), but for '
            f'pixels of {ignored}, which are ignored: to say {label} everywhere is right'
        )
        # What learns masks, not the class of a pixel, learns what is outside of them as well.
        is_error = bool(heads) and all(head.by_pixel for head in heads or ())
        finding = Finding('single', 'class', f'{named[label]} ({label})', alone)
        _say(split, str(finding), is_error)
        return
    absent = [str(named[index]) for index in range(len(named)) if index not in seen.labels]
    if absent:
        more = f' and {len(absent) - _NAMED} more' if len(absent) > _NAMED else ''
        _say(
            split,
            f'{len(absent)} of {len(named)} classes have no pixel in the masks that were read '
            f'({seen.masks} of {total}): {", ".join(absent[:_NAMED])}{more}. '
            'mmseg-kd check-data CONFIG reads all.',
            False,
        )


def _read_on(parts: Sequence[Any], num_classes: int, seen: Seen) -> None:
    """Read more masks until one holds a second class."""
    seen.masks = 0
    for leaf in parts:
        loading = [one for one in loading_transforms(leaf) if role_of(one) == 'mask']
        expected = Expected(num_classes, getattr(leaf, 'ignore_index', 255))
        for index in _spread(leaf, _MASKS_FOR_SURE):
            first_finding(leaf.get_data_info(index), loading, expected, seen)
            if len(seen.labels) > 1:
                return


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
    info: dict[str, Any], loading: Sequence[Any], expected: Expected, seen: Seen
) -> Finding | None:
    """What is wrong with a sample, the first thing only.

    Args:
        info: The sample as its data set lists it.
        loading: The data set's loading transforms.
        expected: What the network takes.
        seen: A mask that is sound is added to it.
    """
    data, dark = info, None
    for transform in loading:
        path = path_of(transform, data)
        loaded, findings = read(transform, data, expected)
        if findings:
            return findings[0]
        if loaded is None:
            break
        data = loaded
        if role_of(transform) == 'mask':
            seen.add(data, expected)
        elif is_local(transform, path):
            dark = squeezed_finding(path, data['img'])
    return dark
