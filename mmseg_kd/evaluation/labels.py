"""What a network predicts for single images of a data set."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmseg_kd.config.input_scaling import InputScaling
from mmseg_kd.networks.probe import evaluating


def predict_labels(network: Any, dataset: Any, indices: Iterable[int]) -> list[NDArray[np.uint8]]:
    """Class indices (H, W), at the size of the annotated masks, for some images of a data set.

    Args:
        network: A segmentor of mmseg's.
        dataset: A data set of mmseg's with its test pipeline.
        indices: Which of its images.
    """
    labels = []
    with evaluating(network), torch.inference_mode():
        for index in indices:
            item = dataset[index]
            batch = dict(inputs=[item['inputs']], data_samples=[item['data_samples']])
            prediction = network.test_step(batch)[0].pred_sem_seg.data
            labels.append(prediction.squeeze(0).cpu().numpy().astype(np.uint8))
    return labels


def scale_images(network: Any, scaling: InputScaling) -> None:
    """Let a network see its images at a size, as the teacher of a distillation does."""

    own = network.extract_feat
    network.extract_feat = lambda images_NCHW, *rest: own(scaling(images_NCHW), *rest)


def image_of(item: Any) -> NDArray[np.uint8]:
    """The picture (H, W, 3), RGB, of an item of a data set, as the network gets it."""
    # Pipelines hand over BGR, as OpenCV reads it.
    return np.ascontiguousarray(item['inputs'].numpy()[::-1].transpose(1, 2, 0))


def label_of(item: Any) -> NDArray[np.uint8] | None:
    """The class indices (H, W) of an item, 255 where not annotated; None without ground truth."""
    sample = item['data_samples']
    if 'gt_sem_seg' not in sample:
        return None
    label: NDArray[np.uint8] = sample.gt_sem_seg.data.squeeze(0).numpy().astype(np.uint8)
    return label


def image_and_label(dataset: Any, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The picture (H, W, 3), RGB, and its class indices (H, W), 255 where not annotated."""
    item = dataset[index]
    label = label_of(item)
    assert label is not None, 'a data set with ground truth'
    return image_of(item), label
