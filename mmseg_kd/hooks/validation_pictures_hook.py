"""What the student makes of a few images, validation by validation."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from PIL import Image, ImageOps
from torch import Tensor

from mmseg_kd.analysis.comparison import colour_label, draw_comparison
from mmseg_kd.analysis.differences import VOID, evenly_spaced
from mmseg_kd.analysis.grid import Picture
from mmseg_kd.checks import is_integer
from mmseg_kd.distillation import DistillationWrapper
from mmseg_kd.errors import ConfigError
from mmseg_kd.evaluation import use_lean_prediction
from mmseg_kd.evaluation.labels import predict_labels
from mmseg_kd.host.visualizer import add_picture
from mmseg_kd.networks.build import unwrapped

NAME = 'validation'

# Beside pictures that are narrower or lower than the first.
PAPER = (255, 255, 255)

NEAREST, SMOOTH = Image.Resampling.NEAREST, Image.Resampling.BICUBIC


@HOOKS.register_module()
class ValidationPicturesHook(Hook):
    """Shows a few images at each validation: image, ground truth, student and teacher.

    The images are evenly spaced over the validation data, always the same. `mmseg-kd train` adds
    the hook to every run, since it costs next to nothing: the student's predictions are those of
    the validation itself, so that nothing runs twice and nothing random is drawn. A teacher
    predicts each image once, at the first validation of a process, without scores at the size of
    the image; where it has no room on the GPU the pictures do without it, and the log says so.
    Several ranks do not talk to each other: rank 0 takes images of its own share. Drawing takes
    less than a second of a validation, the picture some 130 kB an image.

    Args:
        images: How many; 0: none.
        cell_width: Width of each picture, in pixels.

    Raises:
        ConfigError: An argument is out of its range.
    """

    def __init__(self, images: int = 3, cell_width: int = 256) -> None:
        for name, value, least in (('images', images, 0), ('cell_width', cell_width, 32)):
            if not (is_integer(value) and value >= least):
                raise ConfigError(
                    f'ValidationPicturesHook: {name}: expected a whole number >= {least}, got '
                    f'{value!r}.'
                )
        self.images = images
        self.cell_width = cell_width
        self._picked: set[int] = set()
        self._shown: list[_Shown] = []
        # By name; None: they have not been asked yet.
        self._of_teachers: dict[str, list[Picture]] | None = None

    @master_only
    def before_val_epoch(self, runner: Runner) -> None:
        """Pick the batches whose first image is shown."""
        self._picked = set(evenly_spaced(len(runner.val_dataloader), self.images))
        self._shown = []

    @master_only
    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Keep an image and what was predicted for it."""
        if batch_idx not in self._picked:
            return
        image_CHW, sample = data_batch['inputs'][0].cpu(), outputs[0]
        if image_CHW.dtype != torch.uint8 or len(image_CHW) != 3 or 'gt_sem_seg' not in sample:
            # Training goes on: other images are nobody's mistake.
            self._picked, self.images = set(), 0
            message = (
                'No pictures of the validations: expected images of three channels in bytes, with '
                f'ground truth; got {len(image_CHW)} in {image_CHW.dtype}, '
                f'{"with" if "gt_sem_seg" in sample else "without"} it.'
            )
            print_log(message, logger='current', level=logging.WARNING)
            return
        truth, predicted = (_label(one) for one in (sample.gt_sem_seg, sample.pred_sem_seg))
        self._shown.append(_Shown(image_CHW, sample.metainfo, truth, predicted))

    @master_only
    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Draw."""
        metainfo = getattr(runner.val_dataloader.dataset, 'metainfo', {})
        classes, palette = metainfo.get('classes'), metainfo.get('palette')
        shown, self._shown = self._shown, []
        # A label is a byte, and 255 means that there is none.
        if not shown or not classes or not palette or len(classes) > VOID:
            return
        model = unwrapped(runner.model)
        if self._of_teachers is None:
            self._of_teachers = _ask_teachers(model, shown)
        trained = 'student' if isinstance(model, DistillationWrapper) else 'network'
        columns = {
            'ground truth': [one.truth_HW for one in shown],
            trained: [one.predicted_HW for one in shown],
            **self._of_teachers,
        }
        height, width = shown[0].truth_HW.shape
        cell = (self.cell_width, max(1, round(self.cell_width * height / width)))
        pictures = {'image': [_fitted(one.photograph(), cell, SMOOTH) for one in shown]}
        for title, labels in columns.items():
            pictures[title] = [_fitted(colour_label(one, palette), cell, NEAREST) for one in labels]
        # The classes that are there to be found: all that the data set has may be too many.
        present = np.unique(np.concatenate([one.truth_HW.ravel() for one in shown]))
        present = present[present < len(classes)]
        names, colours = ([values[i] for i in present] for values in (classes, palette))
        figure = draw_comparison(pictures, names, colours, self.cell_width)
        add_picture(runner.visualizer, NAME, np.asarray(figure), runner.iter)


@dataclass(frozen=True)
class _Shown:
    """An image of the validation.

    Attributes:
        image_CHW: As a data loader gives it, BGR, uint8.
        metainfo: Of its data sample.
        truth_HW, predicted_HW: Class indices, 255 where not annotated.
    """

    image_CHW: Tensor
    metainfo: dict[str, Any]
    truth_HW: Picture
    predicted_HW: Picture

    def photograph(self) -> Picture:
        """The image as RGB, in the size of its mask."""
        image = Image.fromarray(self.image_CHW.flip(0).permute(1, 2, 0).contiguous().numpy())
        height, width = self.truth_HW.shape
        return np.asarray(image.resize((width, height), SMOOTH))


def _label(pixels: PixelData) -> Picture:
    return np.asarray(pixels.data.squeeze(0).cpu(), dtype=np.uint8)


def _fitted(picture: Picture, cell: tuple[int, int], how: Image.Resampling) -> Picture:
    """A picture as large as the cell takes it, in its own proportions."""
    return np.asarray(ImageOps.pad(Image.fromarray(picture), cell, how, PAPER))


def _ask_teachers(model: Any, shown: Sequence[_Shown]) -> dict[str, list[Picture]]:
    """What the teachers predict, by name: those that can."""
    teachers = model.teachers if isinstance(model, DistillationWrapper) else {}
    found = {}
    for name, network in teachers.items():
        title = 'teacher' if len(teachers) == 1 else name
        if name not in model.predicting_teachers:
            _say_without(title, 'its checkpoint has not all that it predicts with')
        elif network.num_classes != model.student.num_classes:
            _say_without(title, 'it knows other classes')
        else:
            try:
                found[title] = _predictions(network, shown)
            except torch.OutOfMemoryError:
                _say_without(title, 'there is no room on the GPU')
    return found


def _predictions(network: Any, shown: Sequence[_Shown]) -> list[Picture]:
    items = [
        dict(inputs=one.image_CHW, data_samples=SegDataSample(metainfo=one.metainfo))
        for one in shown
    ]
    is_lean = use_lean_prediction(network)
    try:
        return predict_labels(network, items, range(len(items)))
    finally:
        if is_lean:
            del network.predict


def _say_without(teacher: str, reason: str) -> None:
    message = f'The pictures of the validations do without {teacher!r}: {reason}.'
    print_log(message, logger='current', level=logging.WARNING)
