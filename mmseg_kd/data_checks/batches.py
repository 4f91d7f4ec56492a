"""Whether what a pipeline gives can be made into batches."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from mmseg_kd.data_checks.heads import Head
from mmseg_kd.errors import ConfigError, DatasetError, Problems

# Samples that go through the whole pipeline, augmentation included.
_SAMPLES = 8

# Batches of a validation, of which so many samples are looked at.
_BATCHES, _OF_A_BATCH = 4, 2

Size = tuple[int, int]


def check_preprocessor(preprocessor: Any) -> None:
    """See that mmseg's data preprocessor is told one way to pad, without which it makes no batch.

    Args:
        preprocessor: A model's data preprocessor; of one that is not mmseg's nothing is known.

    Raises:
        ConfigError: It has none, or two; `ManyErrors` where that holds in training and in tests.
    """
    if not _is_of_mmseg(preprocessor):
        return
    problems = Problems()
    ways = [('', preprocessor.size, preprocessor.size_divisor)]
    if preprocessor.test_cfg:
        of_test = preprocessor.test_cfg
        ways.append(('.test_cfg', of_test.get('size'), of_test.get('size_divisor')))
    for where, size, divisor in ways:
        if (size is None) == (divisor is None):
            got = 'neither' if size is None else f'size={size} and size_divisor={divisor}'
            problems.add(
                ConfigError(
                    f'data_preprocessor{where}: expected either size or size_divisor, to which '
                    f'images are padded; got {got}. Set size to that of the crop; size_divisor=1 '
                    'pads to the largest image of a batch.'
                )
            )
    problems.raise_if_any()


def check_batches(
    dataset: Any, split: str, loader: Any, preprocessor: Any, heads: Sequence[Head] | None
) -> None:
    """Run a pipeline on some samples, and see that the preprocessor can make batches of them.

    No random number is drawn that a training would have drawn.

    Args:
        dataset: The data set, perhaps inside wrappers.
        split: 'train' or 'val'.
        loader: The config of its data loader.
        preprocessor: The model's data preprocessor; of one that is not mmseg's nothing is known.
        heads: The heads that learn from the masks; None: none does.

    Raises:
        ConfigError: Images of a batch would be of several sizes, which the preprocessor refuses, or
            a batch does not hold a sampler's ratio.
        DatasetError: Masks hold values after augmentation and padding that a head does not take.
    """
    batch_size = loader.get('batch_size', 1)
    ratio = (loader.get('sampler') or {}).get('ratio')
    if split == 'train' and ratio is not None and batch_size % sum(ratio):
        raise ConfigError(
            f'train data: MixedSampler: ratio={ratio} needs a batch_size that is a multiple of '
            f'{sum(ratio)}, got {batch_size}.'
        )
    if not _is_of_mmseg(preprocessor) or not isinstance(batch_size, int):
        return
    if split == 'train':
        samples = _samples(dataset, np.linspace(0, len(dataset) - 1, _SAMPLES).astype(int).tolist())
        problems = Problems()
        with problems:
            # A sampler of batches may well know which images go together.
            if batch_size > 1 and loader.get('batch_sampler') is None:
                _check_training_sizes([_size(one) for one in samples], batch_size, preprocessor)
        with problems:
            _check_labels(samples, preprocessor, heads or ())
        problems.raise_if_any()
    elif batch_size > 1 and loader.get('batch_sampler') is None:
        _check_validation_sizes(dataset, split, batch_size)


def _is_of_mmseg(preprocessor: Any) -> bool:
    return bool(type(preprocessor).forward.__module__ == 'mmseg.models.data_preprocessor')


def _samples(dataset: Any, indices: Iterable[int]) -> list[Any]:
    """Samples with an image as the preprocessor takes it; those that cannot be read are left out.

    What is wrong with them is said elsewhere.
    """
    found = []
    with _undisturbed():
        for index in dict.fromkeys(indices):
            try:
                sample = dataset[index]
            except Exception:  # a transform may raise anything, and training will say what
                continue
            if isinstance(sample, dict) and getattr(sample.get('inputs'), 'ndim', 0) == 3:
                found.append(sample)
    return found


@contextmanager
def _undisturbed() -> Iterator[None]:
    """The random state afterwards is what it was before."""
    of_python, of_numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)


def _size(sample: Any) -> Size:
    height, width = sample['inputs'].shape[-2:]
    return height, width


def _padded(size: Size, preprocessor: Any) -> Size:
    """What `size` becomes where the preprocessor has a size: nothing is ever cut off."""
    return max(size[0], preprocessor.size[-2]), max(size[1], preprocessor.size[-1])


def _check_training_sizes(sizes: Sequence[Size], batch_size: int, preprocessor: Any) -> None:
    if preprocessor.size is None or preprocessor.size_divisor is not None:
        return
    if len({_padded(size, preprocessor) for size in sizes}) < 2:
        return
    target = tuple(preprocessor.size)
    larger = next(size for size in sizes if _padded(size, preprocessor) != target)
    raise ConfigError(
        f'data_preprocessor: size={target} pads smaller images to one size, and the train '
        f'pipeline gives larger ones, such as {larger[0]}x{larger[1]}, of which no batch of '
        f'{batch_size} can be made. Let the pipeline crop to {target[0]}x{target[1]} (RandomCrop) '
        'or resize to it (Resize), or set size_divisor=1 in place of size.'
    )


def _check_validation_sizes(dataset: Any, split: str, batch_size: int) -> None:
    batches = -(-len(dataset) // batch_size)
    for number in dict.fromkeys(np.linspace(0, batches - 1, _BATCHES).astype(int).tolist()):
        start = number * batch_size
        end = min(len(dataset), start + batch_size)
        sizes = [_size(one) for one in _samples(dataset, range(start, end)[:_OF_A_BATCH])]
        if len(set(sizes)) > 1:
            (height, width), other = sizes[0], next(size for size in sizes if size != sizes[0])
            raise ConfigError(
                f'{split} data: the pipeline gives images of {height}x{width} and '
                f'{other[0]}x{other[1]}, and in a validation all images of a batch must be of one '
                f'size; set batch_size=1 in {split}_dataloader, or Resize them with '
                'keep_ratio=False.'
            )


def _check_labels(samples: Sequence[Any], preprocessor: Any, heads: Sequence[Head]) -> None:
    """See that heads take what augmentation and padding put into masks."""
    problems = Problems()
    if any(_is_padded(_size(one), samples, preprocessor) for one in samples):
        label = int(preprocessor.seg_pad_val)
        what = f'data_preprocessor: masks are padded with seg_pad_val={label}'
        with problems:
            _check_label(label, heads, what, 'Set seg_pad_val to what the heads ignore.')
    mend = 'Set seg_pad_val or fill of the transforms that pad, or ignore_index, to one value.'
    with problems:
        for label in sorted(set().union(*map(_labels, samples))):
            what = f'train data: masks hold the value {label} when they come out of the pipeline'
            _check_label(label, heads, what, mend)
    problems.raise_if_any()


def _check_label(label: int, heads: Sequence[Head], what: str, mend: str) -> None:
    refused = [str(head) for head in heads if not head.takes(label)]
    if refused:
        names = ' and '.join(refused)
        raise DatasetError(f'{what}, which is neither a class nor ignored in {names}. {mend}')


def _labels(sample: Any) -> set[int]:
    mask = getattr(sample.get('data_samples'), 'gt_sem_seg', None)
    return set() if mask is None else set(torch.unique(mask.data).tolist())


def _is_padded(size: Size, samples: Sequence[Any], preprocessor: Any) -> bool:
    if preprocessor.size is not None:
        return _padded(size, preprocessor) != size
    divisor = preprocessor.size_divisor or 1
    return any(side % divisor for side in size) or len(set(map(_size, samples))) > 1
