"""What the files of a folder hold: sizes, the values or colours of masks, what is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image
from torch.utils.data import DataLoader, Dataset

from mmseg_kd.data_checks.findings import Finding
from mmseg_kd.data_checks.image_file import file_finding, impostor
from mmseg_kd.errors import DatasetError
from mmseg_kd.own_data.pairs import Pair, Pairs

# Values of a mask with more of them are no classes.
MOST_VALUES = 1024

# Orientations of EXIF that are a quarter turn.
_SIDEWAYS = (5, 6, 7, 8)

RGB = ('RGB', 'RGBA', 'CMYK', 'YCbCr', 'PA', 'LA')


@dataclass
class Look:
    """What one pair holds.

    Attributes:
        size: Height and width of the image; None where it cannot be read.
        values: Pixels of the mask by value, a colour as red * 65536 + green * 256 + blue.
        is_colour: Whether these are colours.
        palette: Colours that a palette PNG has for its values.
        findings: What is wrong.
    """

    size: tuple[int, int] | None = None
    values: dict[int, int] = field(default_factory=dict)
    is_colour: bool = False
    palette: list[int] | None = None
    findings: list[Finding] = field(default_factory=list)


@dataclass
class Survey:
    """What all pairs hold.

    Attributes:
        pairs: Them; after `run` those of which both files are sound.
        sizes: How many images have a height and width.
        pixels: By split, how many pixels have a value.
        masks: By split, how many masks have a value.
        is_colour: Whether values are colours; as in `Look`.
        palette: As in `Look`, of the first that has one.
        findings: What is wrong.
    """

    pairs: Pairs
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    pixels: dict[str, Counter[int]] = field(init=False)
    masks: dict[str, Counter[int]] = field(init=False)
    is_colour: bool = False
    palette: list[int] | None = None
    findings: list[Finding] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pixels = {split: Counter() for split in self.pairs.splits}
        self.masks = {split: Counter() for split in self.pairs.splits}

    def __len__(self) -> int:
        return sum(map(len, self.pairs.splits.values()))

    @property
    def values(self) -> list[int]:
        """All values of masks."""
        return sorted(set().union(*self.pixels.values()))

    def run(self, workers: int) -> Iterator[Survey]:
        """Read all files; after each pair what has been found so far.

        Args:
            workers: How many processes read; 0: this one does.

        Raises:
            DatasetError: Some masks hold colours and some indices, or no pair of a split is sound.
        """
        kinds: Counter[bool] = Counter()
        sound: dict[str, list[Pair]] = {split: [] for split in self.pairs.splits}
        looks = _Looks(self.pairs)
        loader = DataLoader(looks, 4, num_workers=workers, collate_fn=list)
        for (split, pair), look in zip(looks.pairs, chain.from_iterable(loader), strict=True):
            self.findings += look.findings
            if look.size is not None:
                self.sizes[look.size] += 1
            if not look.findings:
                kinds[look.is_colour] += 1
                self.is_colour = kinds[True] > kinds[False]
                self.pixels[split].update(look.values)
                self.masks[split].update(dict.fromkeys(look.values, 1))
                self.palette = self.palette or look.palette
                sound[split].append(pair)
            yield self
        if len(kinds) > 1:
            raise DatasetError(
                f'{self.pairs.root}: {kinds[True]} masks hold colours and {kinds[False]} indices; '
                'expected one kind.'
            )
        empty = [split for split, found in sound.items() if not found]
        if empty:
            raise DatasetError(
                f'{self.pairs.root}: no pair of {" and ".join(empty)} is sound, the first: '
                f'{self.findings[0]}'
            )
        self.pairs = replace(self.pairs, splits=sound)


class _Looks(Dataset[Look]):
    def __init__(self, pairs: Pairs) -> None:
        self.root = pairs.root
        self.pairs = [(split, pair) for split, found in pairs.splits.items() for pair in found]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Look:
        _, pair = self.pairs[index]
        return look_at(self.root, pair)


def look_at(root: Path, pair: Pair) -> Look:
    """Read a pair: of the image the head of its file, of the mask all."""
    look, image, mask = Look(), str(root / pair.image), str(root / pair.mask)
    for role, path in (('image', image), ('mask', mask)):
        finding = file_finding(role, path)
        if finding is not None:
            look.findings.append(finding)
    if look.findings:
        return look
    try:
        with Image.open(image) as opened:
            look.size = (opened.height, opened.width)
            # As it is trained on: cameras write sideways what is to be seen upright.
            if opened.getexif().get(ExifTags.Base.Orientation, 1) in _SIDEWAYS:
                look.size = (opened.width, opened.height)
    except OSError:
        text = f'cannot be read{impostor(image)}'
        look.findings.append(Finding('unreadable', 'image', image, text))
    try:
        with Image.open(mask) as opened:
            if opened.format == 'JPEG':
                look.findings.append(Finding('lossy', 'mask', mask, 'is a JPEG'))
                return look
            values, look.is_colour = mask_values(opened)
            look.palette = opened.getpalette('RGB') if opened.mode == 'P' else None
    except (OSError, SyntaxError) as error:
        text = f'cannot be read: {error}{impostor(mask)}'
        look.findings.append(Finding('unreadable', 'mask', mask, text))
        return look
    if look.size is not None and values.shape != look.size:
        sizes = ['x'.join(map(str, size)) for size in (values.shape, look.size)]
        text = f'is of {sizes[0]} and its image of {sizes[1]}'
        look.findings.append(Finding('size', 'mask', mask, text))
    found, counts = _counted(values)
    if len(found) > MOST_VALUES:
        what = 'colours' if look.is_colour else 'values'
        text = f'holds {len(found):,} {what}, too many for classes'
        look.findings.append(Finding('colours' if look.is_colour else 'depth', 'mask', mask, text))
        return look
    look.values = dict(zip(found.tolist(), counts.tolist(), strict=True))
    return look


def _counted(values: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """The values there are, and how often each."""
    if values.dtype != np.uint8:
        return np.unique(values, return_counts=True)
    # A tenth of the time of sorting them.
    counts = np.bincount(values.ravel(), minlength=256)
    (found,) = np.nonzero(counts)
    return found, counts[found]


def mask_values(mask: Image.Image) -> tuple[npt.NDArray[Any], bool]:
    """The values (H, W) of a mask, and whether they are colours, as `Look.values` has them."""
    if mask.mode not in RGB:
        values = np.asarray(mask)
        return (values.astype(np.uint8) if values.dtype == bool else values), False
    r, g, b = np.moveaxis(np.asarray(mask.convert('RGB')).astype(np.int32), -1, 0)
    return r << 16 | g << 8 | b, True


def rgb(value: int) -> tuple[int, int, int]:
    """Red, green and blue of a colour as `Look.values` has it."""
    return value >> 16, value >> 8 & 255, value & 255


def shares(pixels: Mapping[int, int]) -> dict[int, float]:
    """The share of each value in all pixels."""
    total = max(sum(pixels.values()), 1)
    return {value: count / total for value, count in pixels.items()}
