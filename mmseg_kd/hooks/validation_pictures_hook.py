"""What the student makes of a few images, validation by validation."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
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

from mmseg_kd.analysis.comparison import comparison_figure
from mmseg_kd.analysis.differences import VOID, Label, evenly_spaced
from mmseg_kd.analysis.scene import Scene
from mmseg_kd.checks import is_integer
from mmseg_kd.distillation import DistillationWrapper
from mmseg_kd.errors import ConfigError
from mmseg_kd.evaluation.labels import image_of, predict_labels
from mmseg_kd.evaluation.lean_prediction import lean_prediction
from mmseg_kd.host.aside import aside
from mmseg_kd.host.quiet import explain
from mmseg_kd.host.visualizer import add_picture
from mmseg_kd.networks.build import unwrapped

NAME = 'validation'


@HOOKS.register_module()
class ValidationPicturesHook(Hook):
    """Shows a few images at each validation: image, ground truth, student and teacher.

    Below a prediction stands its mIoU in this picture. The images are evenly spaced over the
    validation data, always the same. `mmseg-kd train` adds the hook to every run, since it costs
    next to nothing: the student's predictions are those of the validation itself, so that nothing
    runs twice and nothing random is drawn. A teacher predicts each image once, at the first
    validation of a process, without scores at the size of the image; where it has no room on the
    GPU the pictures do without it, and the log says so. Several ranks do not talk to each other:
    rank 0 takes images of its own share. Drawing takes less than a second of a validation, the
    picture some 130 kB an image.

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
        # Items as of a data set, ground truth and what was predicted.
        self._shown: list[tuple[dict[str, Any], Label, Label]] = []
        # By name; None: they have not been asked yet.
        self._of_teachers: dict[str, list[Label]] | None = None

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
        if batch_idx in self._picked:
            with aside('Pictures of the validations', self._give_up):
                self._keep(data_batch, outputs)

    def _give_up(self) -> None:
        self._picked, self.images, self._shown = set(), 0, []

    def _keep(self, data_batch: Any, outputs: Any) -> None:
        image_CHW, sample = data_batch['inputs'][0].cpu(), outputs[0]
        if image_CHW.dtype != torch.uint8 or len(image_CHW) != 3 or 'gt_sem_seg' not in sample:
            # Training goes on: other images are nobody's mistake.
            self._give_up()
            message = (
                'No pictures of the validations: expected images of three channels in bytes, with '
                f'ground truth; got {len(image_CHW)} in {image_CHW.dtype}, '
                f'{"with" if "gt_sem_seg" in sample else "without"} it.'
            )
            print_log(message, logger='current', level=logging.WARNING)
            return
        # As the loader gave them: the student may have added its padding.
        metainfo = data_batch['data_samples'][0].metainfo
        item = dict(inputs=image_CHW, data_samples=SegDataSample(metainfo=metainfo))
        self._shown.append((item, _label(sample.gt_sem_seg), _label(sample.pred_sem_seg)))

    @master_only
    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Draw."""
        with aside('Pictures of the validations', self._give_up):
            self._draw(runner)

    def _draw(self, runner: Runner) -> None:
        metainfo = getattr(runner.val_dataloader.dataset, 'metainfo', {})
        classes, palette = metainfo.get('classes'), metainfo.get('palette')
        shown, self._shown = self._shown, []
        # A label is a byte, and 255 means that there is none.
        if not shown or not classes or not palette or len(classes) > VOID:
            return
        model = unwrapped(runner.model)
        if self._of_teachers is None:
            self._of_teachers = _ask_teachers(model, [item for item, _, _ in shown])
        trained = 'student' if isinstance(model, DistillationWrapper) else 'network'
        scenes = []
        for row, (item, truth_HW, predicted_HW) in enumerate(shown):
            asked = {title: labels[row] for title, labels in self._of_teachers.items()}
            name = Path(item['data_samples'].get('img_path', '')).stem
            predictions = {trained: predicted_HW, **asked}
            scenes.append(Scene(name, image_of(item), truth_HW, predictions))
        titles = [trained, *self._of_teachers]
        figure = comparison_figure(scenes, titles, classes, palette, cell_width=self.cell_width)
        add_picture(runner.visualizer, NAME, np.asarray(figure), runner.iter)


def _label(pixels: PixelData) -> Label:
    return np.asarray(pixels.data.squeeze(0).cpu(), dtype=np.uint8)


def _ask_teachers(model: Any, items: Sequence[Any]) -> dict[str, list[Label]]:
    """What the teachers predict, by name: those that can."""
    teachers = model.teachers if isinstance(model, DistillationWrapper) else {}
    found = {}
    for name, network in teachers.items():
        title = 'teacher' if len(teachers) == 1 else name
        if name not in model.predicting_teachers:
            _say_without(title, 'not all that it predicts with is loaded')
        elif network.num_classes != model.student.num_classes:
            _say_without(title, 'it knows other classes')
        else:
            try:
                with lean_prediction(network):
                    found[title] = predict_labels(network, items, range(len(items)))
            except torch.OutOfMemoryError:
                _say_without(title, 'there is no room on the GPU')
            except Exception as error:  # such as of a size of image that it does not take
                _say_without(title, f'it cannot predict them: {explain(error)}')
    return found


def _say_without(teacher: str, reason: str) -> None:
    message = f'The pictures of the validations do without {teacher!r}: {reason}.'
    print_log(message, logger='current', level=logging.WARNING)
