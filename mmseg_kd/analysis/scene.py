"""An image with its ground truth and what networks make of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from mmseg_kd.analysis.differences import VOID, Label
from mmseg_kd.analysis.grid import Picture
from mmseg_kd.errors import DatasetError
from mmseg_kd.evaluation.labels import image_of, label_of, predict_labels


@dataclass(frozen=True)
class Scene:
    """One image of a data set.

    Attributes:
        name: What the figures call it.
        image_HW3: RGB, as the networks get it.
        label_HW: Class indices, 255 for void; None: there is no ground truth.
        predictions: Class indices by the networks' titles, as large as the ground truth.
    """

    name: str
    image_HW3: Picture
    label_HW: Label | None
    predictions: Mapping[str, Label] = field(default_factory=dict)

    def labels(self) -> list[Label]:
        """The ground truth and all predictions."""
        return [*([] if self.label_HW is None else [self.label_HW]), *self.predictions.values()]

    def at_label_size(self) -> Picture:
        """The image in the size of the ground truth and the predictions."""
        height, width = self.labels()[0].shape
        if self.image_HW3.shape[:2] == (height, width):
            return self.image_HW3
        scaled = cv2.resize(self.image_HW3, (width, height), interpolation=cv2.INTER_CUBIC)
        return scaled.astype(np.uint8)

    def caption(self, title: str) -> str:
        """How good a network is here; nothing without ground truth."""
        if self.label_HW is None:
            return ''
        return f'mIoU {100 * picture_miou(self.predictions[title], self.label_HW):.1f}'


def picture_miou(prediction_HW: Label, label_HW: Label) -> float:
    """The mean IoU, 0 to 1, over the classes that one picture's ground truth or prediction has.

    Void pixels take no part. NaN where all is void.
    """
    known = label_HW != VOID
    prediction, label = prediction_HW[known], label_HW[known]
    hits = np.bincount(label[prediction == label], minlength=256)
    union = np.bincount(prediction, minlength=256) + np.bincount(label, minlength=256) - hits
    occurs = union > 0
    return float(np.mean(hits[occurs] / union[occurs])) if occurs.any() else float('nan')


def make_scenes(
    dataset: Any, indices: Sequence[int], networks: Mapping[str, Any], names: Sequence[str]
) -> list[Scene]:
    """Scenes of a data set with what networks predict.

    Args:
        dataset: A data set of mmseg's with its test pipeline, or anything with its items.
        indices: Which of its images.
        networks: Segmentors by title.
        names: What the images are called.

    Raises:
        DatasetError: Ground truth and predictions are of different sizes.
    """
    predictions = {
        title: predict_labels(network, dataset, indices) for title, network in networks.items()
    }
    scenes = []
    for row, (index, name) in enumerate(zip(indices, names, strict=True)):
        item = dataset[index]
        scene = Scene(
            name,
            image_of(item),
            label_of(item),
            {title: labels[row] for title, labels in predictions.items()},
        )
        sizes = {label_HW.shape for label_HW in scene.labels()}
        if len(sizes) > 1:
            raise DatasetError(
                f'{name}: ground truth and predictions are of different sizes, {sorted(sizes)}; '
                'LoadAnnotations must come after what scales the image in the test pipeline.'
            )
        scenes.append(scene)
    return scenes
