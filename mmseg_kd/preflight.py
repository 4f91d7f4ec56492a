"""What is checked of the data before the first batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mmseg.registry import DATASETS

from mmseg_kd.errors import ConfigError, DatasetError
from mmseg_kd.host import explain

# Masks that are read of each data set: enough to find a wrong convention, not to find every
# broken file, and a matter of a second.
SAMPLED_MASKS = 32


def check_dataset(cfg: Any, split: str, num_classes: int) -> None:
    """Build a data set and look at its list of files and at some of its masks.

    Args:
        cfg: The data set's config.
        split: 'train', 'val' or 'test', for messages.
        num_classes: How many classes the network tells apart.

    Raises:
        DatasetError: It is empty, a file is missing or unreadable, or a mask holds a value
            that is neither a class nor the ignored label.
        ConfigError: It has another number of classes than the network.
    """
    try:
        dataset = DATASETS.build(cfg)
    except (FileNotFoundError, NotADirectoryError, AssertionError) as error:
        raise DatasetError(
            f'{split} data: {error}. Prepare the data as the README shows, or set data_root.'
        ) from error
    except Exception as error:  # whatever a data set's class raises
        if 'need at least one array to concatenate' in str(error):
            # An empty list of files, which mmengine cannot pack.
            raise DatasetError(
                f'{split} data: found no images in {_image_folder(cfg)!r}. Prepare the data as '
                'the README shows, or set data_root and img_suffix.'
            ) from error
        raise ConfigError(f'{split} data: {explain(error)}') from error
    for leaf in _leaves(dataset):
        _check_leaf(leaf, split, num_classes)


def _image_folder(cfg: Any) -> str:
    """Where a data set's config, or the one that it wraps, says that the images are."""
    while 'dataset' in cfg:
        cfg = cfg['dataset']
    return str(Path(cfg.get('data_root') or '', (cfg.get('data_prefix') or {}).get('img_path', '')))


def _leaves(dataset: Any) -> Iterator[Any]:
    """The data sets inside wrappers such as RepeatDataset and ConcatDataset."""
    if hasattr(dataset, 'datasets'):
        for inner in dataset.datasets:
            yield from _leaves(inner)
    elif hasattr(dataset, 'dataset'):
        yield from _leaves(dataset.dataset)
    else:
        yield dataset


def _check_leaf(dataset: Any, split: str, num_classes: int) -> None:
    if not hasattr(dataset, 'get_data_info'):
        return
    name = type(dataset).__name__
    if len(dataset) == 0:
        folder = getattr(dataset, 'data_prefix', {}).get('img_path', '')
        suffix = getattr(dataset, 'img_suffix', '')
        raise DatasetError(
            f'{split} data: {name} found no *{suffix} images in {folder!r}. Prepare the data as '
            'the README shows, or set data_root.'
        )
    classes = dataset.metainfo.get('classes')
    if classes is not None and len(classes) != num_classes:
        raise ConfigError(
            f'{split} data: {name} has {len(classes)} classes and the network num_classes='
            f'{num_classes}; set num_classes of its heads to {len(classes)}.'
        )
    loaders = [
        transform
        for transform in getattr(dataset.pipeline, 'transforms', [])
        if type(transform).__name__ == 'LoadAnnotations'
    ]
    if not loaders:
        return
    ignored = getattr(dataset, 'ignore_index', 255)
    chosen = np.linspace(0, len(dataset) - 1, min(len(dataset), SAMPLED_MASKS)).astype(int)
    for index in chosen:
        info = dataset.get_data_info(int(index))
        path = info.get('seg_map_path')
        try:
            mask = loaders[0].transform(info)['gt_seg_map']
        except Exception as error:  # pillow, OpenCV and file backends each raise their own
            raise DatasetError(f'{split} data: mask {path} cannot be read: {error}') from error
        values = np.unique(mask)
        wrong = values[(values >= num_classes) & (values != ignored)]
        if wrong.size:
            raise DatasetError(
                f'{split} data: mask {path} holds the value {wrong[0]}; expected 0 to '
                f'{num_classes - 1} or {ignored} (ignored). Check the masks, and reduce_zero_label.'
            )
