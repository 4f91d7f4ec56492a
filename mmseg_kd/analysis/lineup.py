"""Trained networks and the images that they are compared on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmseg_kd.analysis.differences import choose_images, evenly_spaced
from mmseg_kd.analysis.named_networks import (
    NamedNetwork,
    load_networks,
    read_networks,
    read_teacher,
)
from mmseg_kd.data_checks.image_folder import ImageFiles
from mmseg_kd.data_checks.loading import leaf
from mmseg_kd.data_checks.preflight import build_dataset, check_dataset
from mmseg_kd.errors import ConfigError, DatasetError, nearest
from mmseg_kd.host.device import find_device
from mmseg_kd.host.quiet import as_config_error

SPLITS = ('val', 'test')


@dataclass(frozen=True)
class Lineup:
    """Trained networks before the images of one data set.

    Attributes:
        networks: Segmentors by title, in the order of a figure's columns.
        named: What their configs say of them, in the same order.
        dataset: A data set of mmseg's with its test pipeline, or images without ground truth.
        between: The titles of the two whose differences count; None: there is one alone.
        teacher: Whether the last one is the teacher of the others; its name where it has one.
    """

    networks: Mapping[str, Any]
    named: Sequence[NamedNetwork]
    dataset: Any
    between: tuple[str, str] | None
    teacher: str | bool = False

    def names(self, images: Sequence[int]) -> list[str]:
        """What images are called, by their positions."""
        return [self._file(index).stem for index in images]

    def find(self, images: Sequence[str]) -> list[int]:
        """The positions of images that are named by their files or by those positions.

        Raises:
            DatasetError: There is no such image; the message has the nearest names.
        """
        files = list(map(self._file, range(len(self.dataset))))
        return [_position(image, files) for image in images]

    def _file(self, index: int) -> Path:
        return Path(self.dataset.get_data_info(index)['img_path'])

    def choose(self, count: int, sample: int = 60) -> list[int]:
        """The positions of images on which the two of `between` differ most.

        Args:
            count: How many; where there is one network alone, evenly spaced ones.
            sample: How many evenly spaced images to look at.
        """
        if self.between is None:
            return evenly_spaced(len(self.dataset), count)
        first, second = (self.networks[title] for title in self.between)
        return choose_images(first, second, self.dataset, count, sample)


def line_up(
    networks: Sequence[str | Path],
    *,
    teacher: str | bool = False,
    between: Sequence[str] | None = None,
    split: str = 'val',
    input: str | Path | None = None,
    device: str = 'auto',
    cfg_options: Mapping[str, Any] | None = None,
) -> Lineup:
    """Load trained networks and what they are compared on.

    Args:
        networks: `[TITLE=]WORK_DIR`, the folder of a run (its best checkpoint, or the newest where
            it kept no best one), or `[TITLE=]CONFIG:CHECKPOINT`.
        teacher: Add the teacher of the first distillation among them, as the last one; of several
            teachers the one of this name.
        between: The titles of two whose differences choose images and are outlined; None: of the
            first and the last, the teacher only where there is no other.
        split: 'val' or 'test', of the first network's data.
        input: An image or a folder of images without ground truth, in the place of the split's.
        device: As in `find_device`.
        cfg_options: Changes to the first network's config, which also names the data.

    Raises:
        ConfigError: A network, a title or the data cannot be found; `ManyErrors` where that is
            more than one thing.
        CheckpointError: A checkpoint is torn or another network's.
        DatasetError: There are no such images.
        DeviceError: There is no such device.
    """
    place = find_device(device)
    with DefaultScope.overwrite_default_scope('mmseg'):
        named = read_networks(list(map(str, networks)), cfg_options)
        if teacher:
            named.append(read_teacher(named, None if teacher is True else teacher))
        pair = _between(named, between, len(networks))
        loaded = load_networks(named, place)
        classes = next(iter(loaded.values())).num_classes
        dataset = dataset_of(named[0].cfg, split, input, classes)
    if dataset.metainfo.get('classes') is None:
        raise ConfigError('the data set names no classes; give it metainfo=dict(classes=(...)).')
    return Lineup(loaded, named, dataset, pair, teacher)


def _between(
    named: Sequence[NamedNetwork], asked: Sequence[str] | None, students: int
) -> tuple[str, str] | None:
    titles = [one.title for one in named]
    for title in asked or ():
        if title not in titles:
            raise ConfigError(
                f'--between: there is no network {title!r}; {nearest(title, titles)}.'
            )
    first, second = asked or (titles[0], titles[students - 1 if students > 1 else -1])
    return (first, second) if first != second else None


def dataset_of(cfg: Config, split: str, files: str | Path | None, num_classes: int) -> Any:
    """The images: a split of a config's data, or files."""
    loader = cfg.get(f'{split}_dataloader')
    if loader is None:
        there = [one for one in SPLITS if cfg.get(f'{one}_dataloader')]
        raise ConfigError(
            f'--split: the config has no {split}_dataloader; it has: {", ".join(there)}.'
        )
    if not files:
        try:
            check_dataset(loader['dataset'], split, num_classes)
        except DatasetError as error:
            raise DatasetError(f'{error} For images without ground truth: --input DIR.') from error
        return build_dataset(loader['dataset'], split)
    # Classes and palette are known without the data set's own files.
    source = leaf(loader['dataset'])
    lazy = build_dataset({**source, 'pipeline': [], 'lazy_init': True}, split)
    with as_config_error('pipeline'):
        return ImageFiles(files, source['pipeline'], lazy.metainfo)


def _position(image: str, files: Sequence[Path]) -> int:
    """The position of an image that is named by its file or by that position."""
    wanted = Path(image).name
    stems = [file.stem for file in files]
    for choices in ([file.name for file in files], stems):
        if wanted in choices:
            return choices.index(wanted)
    if image.isdecimal():
        if int(image) < len(files):
            return int(image)
        raise DatasetError(
            f'--images: expected a position from 0 to {len(files) - 1}, got {image}.'
        )
    raise DatasetError(f'--images: there is no image {image!r}; {nearest(image, stems)}.')
