"""What a network predicts for images: masks of the pixels that it is sure of, or class scores."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.registry import DefaultScope
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mmseg_kd.analysis.lineup import dataset_of
from mmseg_kd.analysis.named_networks import (
    NamedNetwork,
    load_networks,
    read_networks,
    teacher_named,
)
from mmseg_kd.checkpoints.digest import sha256_of, sha256_of_tensors
from mmseg_kd.checkpoints.save import atomic_write
from mmseg_kd.checkpoints.source import local_file
from mmseg_kd.config.input_scaling import InputScaling
from mmseg_kd.config.load import load_config
from mmseg_kd.datasets.stored_scores import SETTINGS, SUFFIX, to_stride
from mmseg_kd.errors import ConfigError, DatasetError
from mmseg_kd.evaluation.labels import scale_images
from mmseg_kd.losses.functional import confidence
from mmseg_kd.runs.work_dir import find_config

IGNORED = 255

# Heads of mmseg that predict probabilities where others have logits.
_OF_PROBABILITIES = ('MaskFormerHead', 'Mask2FormerHead')


@dataclass(frozen=True)
class Settings:
    """What masks or scores are made with; a folder has those of one kind.

    Attributes:
        network: A work dir or CONFIG:CHECKPOINT; with `teacher` the config of a distillation too.
        teacher: The name of its teacher, which predicts in the place of the student; '': the only
            one; None: the student.
        min_confidence: Pixels of a mask whose largest probability is below it are ignored, 0 to 1.
        stride: Pixels a side for each position of the scores; None: masks.
    """

    network: str
    teacher: str | None = None
    min_confidence: float = 0.9
    stride: int | None = None


@dataclass(frozen=True)
class Coverage:
    """What the masks of a folder hold.

    Attributes:
        masks: How many there are.
        pixels: Of each class.
        images: How many masks have each class.
        ignored: Pixels that are ignored.
    """

    masks: int
    pixels: NDArray[np.int64]
    images: NDArray[np.int64]
    ignored: int

    @property
    def share(self) -> float:
        """Of the pixels that have a class."""
        return float(self.pixels.sum() / max(int(self.pixels.sum()) + self.ignored, 1))


class PseudoLabels:
    """Predicts masks or class scores of the images of a folder.

    Args:
        settings: With what.
        images: An image or a folder of images.
        out: The folder for them, each called as its image, in a folder as that: masks as
            palette PNGs of class indices, scores as NumPy's arrays (C, h, w) in half precision.
        device: Where the network is.

    Raises:
        KDError: What is wrong with the network or the images; or `out` has masks that were made
            with other settings.
    """

    def __init__(self, settings: Settings, images: Path, out: Path, device: torch.device) -> None:
        if not 0 <= settings.min_confidence <= 1:
            raise ConfigError(
                f'--min-confidence: expected 0 to 1, got {settings.min_confidence:g}.'
            )
        if settings.stride is not None and settings.stride < 1:
            raise ConfigError(f'--stride: expected 1 or more, got {settings.stride}.')
        if out.resolve().is_relative_to(images.resolve()):
            raise ConfigError(
                f'{out}: lies in the folder of the images, of which it would be a part the next '
                'time; choose one outside.'
            )
        self.settings, self.out = settings, out
        with DefaultScope.overwrite_default_scope('mmseg'):
            named = _read_network(settings)
            (self.network,) = load_networks([named], device).values()
            if settings.stride is not None:
                _check_scores(self.network)
            elif self.network.num_classes > IGNORED:
                raise ConfigError(
                    f'masks of 8 bits hold {IGNORED} classes, and the network tells '
                    f'{self.network.num_classes} apart.'
                )
            if named.spec.scaling != InputScaling():
                scale_images(self.network, named.spec.scaling)
            split = 'val' if named.cfg.get('val_dataloader') else 'test'
            self.images = dataset_of(named.cfg, split, images, self.network.num_classes)
        self._made_with = _made_with(settings, named)
        if settings.stride is not None:
            self._made_with['images'] = str(self.images.root.resolve())
            self._made_with['sha256'] = self._made_with['sha256'] or sha256_of_tensors(
                self.network.state_dict()
            )
        _check_made_with(out, self._made_with)
        names = Counter(self.target(index) for index in range(len(self.images)))
        for name, count in names.most_common(1):
            if count > 1:
                raise DatasetError(
                    f'{images}: {count} images would have the file {name.name}; rename.'
                )
        classes = self.images.metainfo.get('classes') or range(self.network.num_classes)
        self.classes = tuple(map(str, classes))

    def target(self, index: int) -> Path:
        """The file of an image."""
        suffix = '.png' if self.settings.stride is None else SUFFIX
        inner: Path = self.images.paths[index].relative_to(self.images.root)
        return self.out / inner.with_suffix(suffix)

    def run(self, rank: int = 0, ranks: int = 1) -> Iterator[str | None]:
        """Write the files that are not there; after each image None, or why it has none.

        Args:
            rank, ranks: Each of several processes does a part of the images.

        Raises:
            CheckpointError: A file cannot be written.
        """
        with atomic_write(self.out / SETTINGS) as partial:
            partial.write_text(json.dumps(self._made_with, indent=2), encoding='utf-8')
        for index in range(rank, len(self.images), ranks):
            target, problem = self.target(index), None
            if not target.exists():
                try:
                    item = self.images[index]
                except DatasetError as error:
                    problem = str(error)
                else:
                    if self.settings.stride is None:
                        self._write(self.label(item), target)
                    else:
                        self._write_scores(self.scores(item, self.settings.stride), target)
            yield problem

    @torch.inference_mode()
    def _predict(self, item: Any) -> Any:
        batch = dict(inputs=[item['inputs']], data_samples=[item['data_samples']])
        return self.network.test_step(batch)[0]

    @torch.inference_mode()
    def label(self, item: Any) -> NDArray[np.uint8]:
        """The mask (H, W) of an item of the images, 255 where the network is not sure."""
        sample = self._predict(item)
        label_HW = sample.pred_sem_seg.data.squeeze(0)
        sure_HW = _confidence(self.network, sample.seg_logits.data.float(), label_HW)
        label_HW = label_HW.masked_fill(sure_HW < self.settings.min_confidence, IGNORED)
        mask: NDArray[np.uint8] = label_HW.byte().cpu().numpy()
        return mask

    @torch.inference_mode()
    def scores(self, item: Any, stride: int) -> NDArray[np.float16]:
        """The class scores (C, h, w) of an item of the images."""
        return to_stride(self._predict(item).seg_logits.data, stride)

    def _write_scores(self, scores_CHW: NDArray[np.float16], target: Path) -> None:
        with atomic_write(target) as partial, partial.open('wb') as file:
            np.save(file, scores_CHW)

    def _write(self, label_HW: NDArray[np.uint8], target: Path) -> None:
        picture = Image.fromarray(label_HW)
        # All 256 entries: with a shorter palette Pillow stores fewer bits a pixel, and 255 is lost.
        colours = np.zeros((256, 3), np.uint8)
        palette = self.images.metainfo.get('palette') or []
        colours[: len(palette)] = np.asarray(palette, np.uint8).reshape(-1, 3)
        picture.putpalette(colours.flatten().tolist())
        with atomic_write(target) as partial:
            picture.save(partial, format='PNG')

    def coverage(self) -> Coverage:
        """What the masks that are there hold, of this call and of those before."""
        counts = np.zeros(256, np.int64)
        images = np.zeros(256, np.int64)
        masks = 0
        for index in range(len(self.images)):
            if self.target(index).exists():
                with Image.open(self.target(index)) as mask:
                    found = np.bincount(np.asarray(mask).ravel(), minlength=256)
                counts, images, masks = counts + found, images + (found > 0), masks + 1
        count = len(self.classes)
        return Coverage(masks, counts[:count], images[:count], int(counts[IGNORED]))


def _read_network(settings: Settings) -> NamedNetwork:
    if settings.teacher is None:
        (named,) = read_networks([settings.network])
        return named
    folder = Path(settings.network)
    cfg = load_config(str(find_config(folder)) if folder.is_dir() else settings.network, None)
    return teacher_named(cfg, settings.teacher or None)


def _check_scores(network: Any) -> None:
    """See that what mmseg calls logits are logits.

    Raises:
        ConfigError: They are probabilities.
    """
    if network.out_channels == 1 or _predicts_probabilities(network):
        raise ConfigError(
            '--scores: expected a network that gives a score for each class, and this one gives '
            'probabilities.'
        )


def _made_with(settings: Settings, named: NamedNetwork) -> dict[str, str | float | None]:
    """The settings, and which weights they mean now: those of a run may be others tomorrow."""
    file = None if named.checkpoint is None else local_file(named.checkpoint)
    given = asdict(settings)
    del given['stride' if settings.stride is None else 'min_confidence']
    return {**given, 'sha256': None if file is None else sha256_of(file)}


def _check_made_with(out: Path, made_with: Mapping[str, str | float | None]) -> None:
    """See that files which are there were made in the same way."""
    path = out / SETTINGS
    if not path.is_file():
        if out.is_dir() and any([*out.rglob('*.png'), *out.rglob(f'*{SUFFIX}')]):
            raise ConfigError(f'{out}: holds other files; choose a folder for these alone.')
        return
    known = json.loads(path.read_text(encoding='utf-8'))
    if known != made_with:
        raise ConfigError(
            f'{out}: its files were made with {known}, and now {made_with} is asked for; '
            'choose another folder, or the same settings to go on.'
        )


def _confidence(network: Any, scores_CHW: Tensor, label_HW: Tensor) -> Tensor:
    """The probability (H, W) of the predicted classes, of what mmseg calls logits."""
    if len(scores_CHW) == 1:  # mmseg has taken the sigmoid
        return torch.where(label_HW > 0, scores_CHW[0], 1 - scores_CHW[0])
    if _predicts_probabilities(network):
        return scores_CHW.amax(0) / scores_CHW.sum(0).clamp(min=1e-7)
    return confidence(scores_CHW[None])[0]


def _predicts_probabilities(network: Any) -> bool:
    head = getattr(network, 'decode_head', None)
    is_mask_classifier = type(head).__name__ in _OF_PROBABILITIES
    return is_mask_classifier or bool(getattr(head, 'predicts_probabilities', False))
