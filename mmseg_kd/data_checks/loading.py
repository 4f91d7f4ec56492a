"""Reading the files of a sample with a look at what came.

The hosts' loading transforms pass on whatever a decoder makes of a file: half a picture, a mask
of another size, values cut to 8 bits. Here each file is looked at before and after it is read.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from mmcv.transforms import LoadImageFromFile
from mmseg.datasets.transforms import LoadAnnotations
from PIL import UnidentifiedImageError

from mmseg_kd.data_checks.findings import Finding
from mmseg_kd.data_checks.heads import Head
from mmseg_kd.data_checks.image_file import depth_finding, file_finding, impostor
from mmseg_kd.host.quiet import explain


@dataclass(frozen=True)
class Expected:
    """What a network takes.

    Args:
        num_classes: Values of masks are 0 to `num_classes` - 1; None: not known.
        ignored: The value of pixels without a class.
        channels: Channels of an image; None: not known.
        heads: What learns from the masks.
    """

    num_classes: int | None
    ignored: int = 255
    channels: int | None = None
    heads: tuple[Head, ...] = ()


def leaves(dataset: Any) -> Iterator[Any]:
    """The data sets inside wrappers such as RepeatDataset and ConcatDataset."""
    if hasattr(dataset, 'datasets'):
        for inner in dataset.datasets:
            yield from leaves(inner)
    elif hasattr(dataset, 'dataset'):
        yield from leaves(dataset.dataset)
    else:
        yield dataset


def loading_transforms(dataset: Any) -> list[Any]:
    """The transforms of a data set's pipeline that read an image or a mask."""
    return list(filter(role_of, getattr(getattr(dataset, 'pipeline', None), 'transforms', ())))


def role_of(transform: Any) -> str:
    """What a transform reads: 'image', 'mask' or neither, ''."""
    if isinstance(transform, LoadAnnotations):
        return 'mask'
    return 'image' if isinstance(transform, LoadImageFromFile) else ''


def path_of(transform: Any, data: dict[str, Any]) -> str:
    """The file of a sample that a loading transform reads; '' where none is given."""
    return str(data.get('img_path' if role_of(transform) == 'image' else 'seg_map_path') or '')


def is_local(transform: Any, path: str) -> bool:
    """Whether a loading transform takes a file from a disk, not over a network."""
    backend = (getattr(transform, 'backend_args', None) or {}).get('backend', 'local')
    return path != '' and '://' not in path and backend in ('local', 'disk')


def read(
    transform: Any, data: dict[str, Any], expected: Expected
) -> tuple[dict[str, Any] | None, list[Finding]]:
    """Run a loading transform on a sample.

    Args:
        transform: One of `loading_transforms`.
        data: The sample as it goes through a pipeline.
        expected: What the network takes.

    Returns:
        The sample with its image or mask, None where that cannot be read, and what is wrong.
    """
    role, path = role_of(transform), path_of(transform, data)
    local = is_local(transform, path)
    if local:
        finding = file_finding(role, path) or (depth_finding(path) if role == 'mask' else None)
        if finding is not None:
            return None, [finding]
    try:
        loaded = transform(data)
    except Exception as error:  # decoders and file backends each raise their own
        missing = _missing_reader(transform, error)
        if missing:
            return None, [Finding('reader', role, path, f'cannot be read: {missing}')]
        why = _why(error) + (impostor(path) if local else '')
        return None, [Finding('unreadable', role, path, f'cannot be read: {why}')]
    if loaded is None:
        return None, []
    finding = (_image_finding if role == 'image' else _mask_finding)(path, loaded, expected)
    return loaded, [] if finding is None else [finding]


def _why(error: Exception) -> str:
    """Why a file cannot be read; the hosts' own words name no more than the file again."""
    if isinstance(error, UnidentifiedImageError) or 'failed to load image' in str(error):
        return 'the decoder knows no such pictures'
    return explain(error)


# Decoders of mmcv that are packages of their own, by the name that mmcv gives them.
_READERS = {'tifffile': ('tifffile', 'tifffile'), 'turbojpeg': ('turbojpeg', 'PyTurboJPEG')}


def _missing_reader(transform: Any, error: Exception) -> str:
    """What is not there to read a file with; '' where the error is about the file."""
    text = ' '.join(str(error).split())
    if isinstance(error, ImportError):
        return text
    codec = re.search(r"requires the '([\w.-]+)' package", text)  # of tifffile
    if codec:
        return f'the package {codec[1]} is not installed'
    backend = getattr(transform, 'imdecode_backend', None)
    if isinstance(error, ValueError) and f'backend: {backend} is not supported' in text:
        return text
    # For mmcv such a package is None until it is there and chosen.
    if backend not in _READERS or not isinstance(error, AttributeError) or 'NoneType' not in text:
        return ''
    module, package = _READERS[backend]
    if importlib.util.find_spec(module) is None:
        return f'imdecode_backend={backend!r} needs the package {package}, which is not installed'
    return f'imdecode_backend={backend!r} works only after mmcv.use_backend({backend!r})'


def _image_finding(path: str, data: dict[str, Any], expected: Expected) -> Finding | None:
    image = data['img']
    channels = 1 if image.ndim == 2 else image.shape[-1]
    if expected.channels in (None, channels):
        return None
    return Finding(
        'channels', 'image', path, f'has {channels} channels; expected {expected.channels}'
    )


def _mask_finding(path: str, data: dict[str, Any], expected: Expected) -> Finding | None:
    mask = data['gt_seg_map']
    if mask.ndim == 3:
        return Finding(
            'colours',
            'mask',
            path,
            f'has {mask.shape[-1]} channels; expected one, of class indices',
        )
    size = data.get('ori_shape')
    if size is not None and tuple(mask.shape) != tuple(size):
        hint = ''
        if tuple(mask.shape) == tuple(size[::-1]):
            hint = ', on its side: see whether the image has an EXIF orientation'
        return Finding(
            'size', 'mask', path, f'is of {_size(mask.shape)} and its image of {_size(size)}{hint}'
        )
    if expected.num_classes is None:
        return None
    foreign = foreign_values(mask, expected)
    if not foreign.size:
        return None
    wrong = foreign[_is_foreign_to_data(foreign, expected)]
    if not wrong.size:
        return _head_finding(path, int(foreign[0]), expected)
    more = f' (and {wrong.size - 1} more)' if wrong.size > 1 else ''
    return Finding(
        'values',
        'mask',
        path,
        f'holds the value {wrong[0]}{more}; expected 0 to {expected.num_classes - 1} or '
        f'{expected.ignored} (ignored){_what_heads_say(int(wrong[0]), expected)}',
    )


def _what_heads_say(value: int, expected: Expected) -> str:
    """What the heads make of a value that the data set does not know."""
    if any(head.num_classes <= value < head.labels for head in expected.heads):
        return '; background is a class too: set num_classes=2, out_channels=1 and two classes'
    ignoring = [head.name for head in expected.heads if head.ignored == value]
    if not ignoring:
        return ''
    return f'; {" and ".join(ignoring)} ignores it: set ignore_index={value} of the data set too'


def _head_finding(path: str, value: int, expected: Expected) -> Finding:
    heads = ' and '.join(str(head) for head in expected.heads if not head.takes(value))
    what = 'ignores' if value == expected.ignored else 'has as a class'
    return Finding(
        'ignored',
        'mask',
        path,
        f'holds the value {value}, which the data set {what} and which is neither ignored nor a '
        f'class in {heads}',
    )


def _size(shape: Any) -> str:
    return 'x'.join(map(str, shape))


def foreign_values(mask: npt.NDArray[Any], expected: Expected) -> npt.NDArray[Any]:
    """The values of a mask that are neither a class nor ignored, in their order.

    They are so for the data set, or for one of the heads.
    """
    # Sound masks are nearly all there are: a look in a table takes a tenth of counting.
    if (
        mask.dtype == np.uint8
        and cv2.countNonZero(cv2.LUT(mask, _foreign_of_8_bits(expected))) == 0
    ):
        return np.arange(0)
    values = np.unique(mask)
    return values[_is_foreign(values, expected)]


@lru_cache(maxsize=16)
def _foreign_of_8_bits(expected: Expected) -> npt.NDArray[np.uint8]:
    return _is_foreign(np.arange(256), expected).astype(np.uint8)


def _is_foreign(values: npt.NDArray[Any], expected: Expected) -> npt.NDArray[np.bool_]:
    foreign = _is_foreign_to_data(values, expected)
    for head in expected.heads:
        foreign |= np.array([not head.takes(int(value)) for value in values], dtype=bool)
    return foreign


def _is_foreign_to_data(values: npt.NDArray[Any], expected: Expected) -> npt.NDArray[np.bool_]:
    foreign: npt.NDArray[np.bool_] = values >= (expected.num_classes or 0)
    foreign &= values != expected.ignored
    return foreign


def leaf(dataset: Any) -> Any:
    """The data set inside wrappers; of several the first."""
    while 'dataset' in dataset or 'datasets' in dataset:
        dataset = dataset['dataset'] if 'dataset' in dataset else dataset['datasets'][0]
    return dataset
