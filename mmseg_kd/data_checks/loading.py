"""Reading the files of a sample with a look at what came.

The hosts' loading transforms pass on whatever a decoder makes of a file: half a picture, a mask
of another size, values cut to 8 bits. Here each file is looked at before and after it is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from mmcv.transforms import LoadImageFromFile
from mmseg.datasets.transforms import LoadAnnotations
from PIL import UnidentifiedImageError

from mmseg_kd.data_checks.findings import Finding
from mmseg_kd.data_checks.image_file import depth_finding, file_finding, impostor
from mmseg_kd.host.quiet import explain


@dataclass(frozen=True)
class Expected:
    """What a network takes.

    Args:
        num_classes: Values of masks are 0 to `num_classes` - 1; None: not known.
        ignored: The value of pixels without a class.
        channels: Channels of an image; None: not known.
    """

    num_classes: int | None
    ignored: int = 255
    channels: int | None = None


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
    wrong = foreign_values(mask, expected)
    if not wrong.size:
        return None
    more = f' (and {wrong.size - 1} more)' if wrong.size > 1 else ''
    return Finding(
        'values',
        'mask',
        path,
        f'holds the value {wrong[0]}{more}; expected 0 to {expected.num_classes - 1} or '
        f'{expected.ignored} (ignored)',
    )


def _size(shape: Any) -> str:
    return 'x'.join(map(str, shape))


def foreign_values(mask: npt.NDArray[Any], expected: Expected) -> npt.NDArray[Any]:
    """The values of a mask that are neither a class nor ignored, in their order."""
    if mask.dtype == np.uint8:
        # Sound masks are nearly all there are: a look in a table takes a tenth of counting.
        values = np.arange(256)
        table = _is_foreign(values, expected).astype(np.uint8)
        if cv2.countNonZero(cv2.LUT(mask, table)) == 0:
            return values[:0]
    values = np.unique(mask)
    return values[_is_foreign(values, expected)]


def _is_foreign(values: npt.NDArray[Any], expected: Expected) -> npt.NDArray[np.bool_]:
    foreign: npt.NDArray[np.bool_] = values >= (expected.num_classes or 0)
    foreign &= values != expected.ignored
    return foreign


def leaf(dataset: Any) -> Any:
    """The data set inside wrappers; of several the first."""
    while 'dataset' in dataset or 'datasets' in dataset:
        dataset = dataset['dataset'] if 'dataset' in dataset else dataset['datasets'][0]
    return dataset
