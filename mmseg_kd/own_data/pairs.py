"""Which files of a folder are images and which their masks, and what they are for."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from mmseg_kd.data_checks.findings import SPLITS
from mmseg_kd.datasets.unlabelled import SUFFIXES, files_in
from mmseg_kd.errors import DatasetError

# Words in names of files and folders, in small letters.
_OF_IMAGES = {
    *('image', 'images', 'img', 'imgs', 'jpegimages', 'leftimg8bit', 'rgb'),
    *('picture', 'pictures', 'photos'),
}
_OF_MASKS = {
    *('annotation', 'annotations', 'annot', 'ann', 'anns', 'mask', 'masks', 'label', 'labels'),
    *('gt', 'gtfine', 'gtcoarse', 'groundtruth', 'seg', 'segmentation', 'segmentations'),
    *('segmentationclass', 'target', 'targets', 'labelids', 'labeltrainids', 'instanceids'),
    'color',
}
_OF_SPLITS = {
    **dict.fromkeys(('train', 'training'), 'train'),
    **dict.fromkeys(('val', 'valid', 'validation'), 'val'),
    **dict.fromkeys(('test', 'testing'), 'test'),
}
_SILENT = {*_OF_SPLITS, *_OF_IMAGES, *_OF_MASKS, 'dir', 'folder', 'data'}
# SegNet's trainannot.
_GLUED = re.compile(rf'({"|".join(_OF_SPLITS)})({"|".join(_OF_IMAGES | _OF_MASKS)})')

# Names that a message lists.
_SHOWN = 3

# What image and mask have in common: the split, and parts of their paths.
_Key = tuple[str | None, tuple[str, ...]]


@dataclass(frozen=True)
class Pair:
    """An image and its mask, as seen from the folder of the data."""

    image: str
    mask: str


@dataclass
class Pairs:
    """The pairs of a folder.

    Attributes:
        root: The folder.
        splits: By 'train', 'val' and perhaps 'test'.
        origin: Where the splits come from, in words.
        left_out: What is not used, in words.
    """

    root: Path
    splits: dict[str, list[Pair]]
    origin: str
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class FindOptions:
    """What helps to tell images from masks, and how a split is drawn where there is none.

    Attributes:
        images, masks: Folders inside of that of the data; None: told by their names.
        mask_suffix: How the names of masks end, such as '_L.png'.
        val_share: The share of the images that is held out for validation.
        seed: Of the choice of these.
    """

    images: str | None = None
    masks: str | None = None
    mask_suffix: str | None = None
    val_share: float = 0.2
    seed: int = 0


@dataclass(frozen=True)
class _Name:
    """What a path says: the split, what image and mask have in common, and which of them it is."""

    split: str | None
    key: tuple[str, ...]
    is_mask: bool


def find_pairs(root: Path, options: FindOptions) -> Pairs:
    """Pair the pictures of a folder and its folders by their names.

    Raises:
        DatasetError: There is no such folder, no pair in it, or several masks of one image.
    """
    if not root.is_dir():
        raise DatasetError(f'{root}: expected a folder of images and masks; there is none.')
    files = sorted(Path(path).relative_to(root).as_posix() for path in files_in(root))
    images: dict[_Key, list[str]] = defaultdict(list)
    masks: dict[_Key, list[str]] = defaultdict(list)
    for path in (path for path in files if path.lower().endswith(SUFFIXES)):
        name = _read_name(path, options)
        if name is not None:
            (masks if name.is_mask else images)[name.split, name.key].append(path)
    if not masks:
        _take_twins(images, masks)
    for both in images.keys() & masks.keys():
        for several in (images[both], masks[both]):
            if len(several) > 1:
                raise DatasetError(
                    f'{root}: expected one image and one mask of a name, got '
                    f'{" and ".join(several[:_SHOWN])}. Say how the names of masks end with '
                    '--mask-suffix, such as _labelIds.png, or take one out.'
                )
    pairs = {name: Pair(images[name][0], masks[name][0]) for name in images if name in masks}
    if not pairs:
        raise DatasetError(_why_none(root, images, masks))
    found_pairs = _split(root, pairs, files, options)
    for role, one, other in (('images', images, masks), ('masks', masks, images)):
        alone = [paths[0] for name, paths in one.items() if name not in other]
        if alone:
            what = 'mask' if role == 'images' else 'image'
            names = ', '.join(alone[:_SHOWN]) + (', ...' if len(alone) > _SHOWN else '')
            found_pairs.left_out.append(f'{len(alone)} {role} without {what}: {names}')
    return found_pairs


def _read_name(path: str, options: FindOptions) -> _Name | None:
    """What a path says; None where options say that it is neither image nor mask."""
    parts = list(PurePosixPath(path).parts)
    is_mask = None
    for folder, role in ((options.masks, True), (options.images, False)):
        inside = PurePosixPath(folder).parts if folder else ()
        if inside and tuple(parts[: len(inside)]) == inside:
            parts, is_mask = parts[len(inside) :], role
            break
    else:
        if options.images and options.masks:
            return None
    suffix = options.mask_suffix
    stem = PurePosixPath(parts[-1]).stem
    if suffix and is_mask is not False and parts[-1].endswith(suffix):
        stem, is_mask = parts[-1].removesuffix(suffix), True
    split, key, of_masks = None, [], False
    for part in parts[:-1]:
        words = [word for one in _words(part) for word in _unglued(one)]
        split = next((_OF_SPLITS[word] for word in words if word in _OF_SPLITS), split)
        of_masks |= not _OF_MASKS.isdisjoint(words)
        rest = [word for word in words if word not in _SILENT]
        key += ['_'.join(rest)] if rest else []
    words, rest = _words(stem), _words(stem)
    for end in (-1, 0):
        while len(rest) > 1 and rest[end] in _OF_IMAGES | _OF_MASKS:
            of_masks |= rest.pop(end) in _OF_MASKS
    if is_mask is None:
        if suffix and of_masks:
            return None
        is_mask = of_masks and not suffix
    return _Name(split, (*key, '_'.join(rest)), is_mask)


def _words(text: str) -> list[str]:
    return [word for word in re.split(r'[_\-. ]+', text.lower()) if word] or [text]


def _unglued(word: str) -> Sequence[str]:
    found = _GLUED.fullmatch(word)
    return found.groups() if found else [word]


def _take_twins(images: Mapping[_Key, list[str]], masks: dict[_Key, list[str]]) -> None:
    """Where no name speaks of masks: of a JPEG and a PNG of one name, the PNG is the mask."""
    for name, paths in images.items():
        png = [path for path in paths if path.lower().endswith('.png')]
        if len(paths) == 2 and len(png) == 1:
            paths.remove(png[0])
            masks[name] = png


def _why_none(root: Path, images: Mapping[_Key, list[str]], masks: Mapping[_Key, list[str]]) -> str:
    def some(found: Mapping[_Key, list[str]]) -> str:
        names = [path for paths in found.values() for path in paths]
        return f'{len(names)} ({", ".join(names[:_SHOWN])})' if names else 'none'

    return (
        f'{root}: found no image with a mask of its name. Images: {some(images)}; masks: '
        f'{some(masks)}. Masks lie in a folder whose name says so (masks, annotations, labels), '
        'or end in _mask.png; else say --images FOLDER --masks FOLDER, or --mask-suffix.'
    )


def _split(
    root: Path,
    pairs: Mapping[_Key, Pair],
    files: Sequence[str],
    options: FindOptions,
) -> Pairs:
    """The pairs by split: as folders say, as lists do, or drawn."""
    splits: dict[str, list[Pair]] = {}
    left_out = []
    if any(split is not None for split, _ in pairs):
        origin = 'folders'
        for name in SPLITS:
            splits[name] = [pair for (split, _), pair in pairs.items() if split == name]
        rest = sum(split is None for split, _ in pairs)
        if rest:
            left_out.append(f'{rest} pairs in no folder of a split')
    else:
        splits = _from_lists(root, {key: pair for (_, key), pair in pairs.items()}, files)
        origin = 'lists'
        rest = len(pairs) - len({pair for found in splits.values() for pair in found})
        if splits and rest:
            left_out.append(f'{rest} pairs in no list')
        if not splits:
            splits, origin = {'train': list(pairs.values())}, ''
    splits = {name: found for name, found in splits.items() if found}
    if 'train' not in splits:
        raise DatasetError(
            f'{root}: expected a split called train, got {" and ".join(splits)}; rename one.'
        )
    if 'val' not in splits:
        chosen = splits['train']
        count = round(len(chosen) * options.val_share) if 0 < options.val_share < 1 else 0
        if not 0 < count < len(chosen):
            raise DatasetError(
                f'{root}: {len(chosen)} pairs for training and a share of {options.val_share:g} '
                'for validation leave one without any; add images, or set --val-share.'
            )
        drawn = set(random.Random(options.seed).sample(range(len(chosen)), count))
        splits['train'] = [pair for index, pair in enumerate(chosen) if index not in drawn]
        splits['val'] = [chosen[index] for index in sorted(drawn)]
        how = f'{options.val_share:.0%} of train drawn for val, seed {options.seed}'
        origin = f'{origin}; {how}' if origin else how
    return Pairs(root, {name: splits[name] for name in SPLITS if name in splits}, origin, left_out)


def _from_lists(
    root: Path, pairs: Mapping[tuple[str, ...], Pair], files: Sequence[str]
) -> dict[str, list[Pair]]:
    """The splits of text files such as train.txt, whose lines begin with a name or a path.

    Raises:
        DatasetError: A line names no pair, or one of several.
    """
    by_end: dict[tuple[str, ...], list[Pair]] = defaultdict(list)
    for key, pair in pairs.items():
        for length in range(1, len(key) + 1):
            by_end[key[-length:]].append(pair)
    by_end |= {key: [pair] for key, pair in pairs.items()}  # a whole name is no end of others
    found: dict[str, list[Pair]] = {}
    others: dict[str, DatasetError] = {}
    for path in sorted(files, key=_is_of_masks, reverse=True):
        split = _OF_SPLITS.get(PurePosixPath(path).stem.lower())
        if split is None or not path.endswith('.txt') or split in found:
            continue
        lines = (root / path).read_text('utf-8-sig').splitlines()
        listed, unknown = [], []
        for line in filter(None, map(str.strip, lines)):
            several = _listed(line, by_end)
            if len(several) > 1:
                names = ' and '.join(pair.image for pair in several[:_SHOWN])
                raise DatasetError(
                    f'{root / path}: {line!r} may be {names}; write more of the path.'
                )
            listed += several
            unknown += [] if several else [line]
        if listed and not unknown:
            found[split] = listed
        elif unknown:
            text = f'{root / path}: there is no image with a mask called {unknown[0]!r}.'
            if listed:
                raise DatasetError(text)
            others.setdefault(split, DatasetError(text))
    # A list that names none of the pairs is of something else, where another one names them.
    for split, error in others.items():
        if split not in found:
            raise error
    return found


def _is_of_masks(path: str) -> bool:
    """Whether a list lies in a folder that speaks of masks, as VOC's ImageSets/Segmentation."""
    return any(not _OF_MASKS.isdisjoint(_words(part)) for part in PurePosixPath(path).parts[:-1])


def _listed(line: str, by_end: Mapping[tuple[str, ...], list[Pair]]) -> list[Pair]:
    """The pairs whose names end as a line of a list does: as long an end as there is."""
    for text in (line, line.split()[0]):
        name = _read_name(_as_file(text), FindOptions())
        assert name is not None
        for begin in range(len(name.key)):
            if name.key[begin:] in by_end:
                return by_end[name.key[begin:]]
    return []


def _as_file(text: str) -> str:
    """A name in a list as a path with an ending, which it may lack."""
    text = text.lstrip('/')
    return text if text.lower().endswith(SUFFIXES) else f'{text}.png'
