"""mmseg's IoUMetric with one count an image."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mmseg.evaluation.metrics import IoUMetric
from mmseg.registry import METRICS
from torch import Tensor

# Of a bin, and of all bins together, in a GPU's histogram.
MOST_COUNTERS = 256
MOST_COUNTERS_OF_ALL = 2**20


@METRICS.register_module()
class FastIoUMetric(IoUMetric):
    """mIoU, mAcc, aAcc, mDice and mFscore as `IoUMetric` has them, counted faster.

    Arguments, results, table and written masks are those of `IoUMetric`. An image is counted by
    one histogram of pairs (label, prediction) on the device of the prediction, and all sums are
    integers: `IoUMetric` counts and adds up in float32, exact as far as 2^24 pixels of a class.

    `results` keeps one small tensor an image, where it was counted: nothing waits for a GPU before
    `evaluate`. There is no running total: which of the last images are copies, made to give every
    rank as many, is known only when the ranks' results are put together.
    """

    results: list[Any]

    @staticmethod
    def intersect_and_union(
        pred_label: Tensor, label: Tensor, num_classes: int, ignore_index: int
    ) -> Tensor:
        """Count the pixels of every class in one image.

        Args:
            pred_label: Predicted class indices (H, W), of any dtype.
            label: Annotated class indices (H, W). Values that are no class count as a miss of
                what is predicted there.
            num_classes: Number of classes.
            ignore_index: Pixels with this label are left out.

        Returns:
            (3, num_classes), int32: pixels where both agree, predicted pixels, annotated pixels.
        """
        counts = FastIoUMetric.count_pairs(pred_label, label, num_classes, ignore_index)
        areas = torch.stack([counts.diagonal(), counts.sum(0), counts.sum(1)])
        return areas[:, 1:-1].to(torch.int32)

    @staticmethod
    def count_pairs(
        pred_label: Tensor, label: Tensor, num_classes: int, ignore_index: int
    ) -> Tensor:
        """Count the pixels of every pair (annotated class, predicted class) in one image.

        Args:
            pred_label, label, num_classes, ignore_index: As in `intersect_and_union`.

        Returns:
            (num_classes + 2, num_classes + 2), int64: a row for each annotated and a column for
            each predicted class, k at index k + 1. The first and the last row and column have
            what is no class, below and above; ignored pixels are at [0, 0].
        """
        # A row and a column more on both sides take what is no class.
        side = num_classes + 2
        row = label.to(torch.int32, copy=True).clamp_(-1, num_classes)
        column = pred_label.to(torch.int32, copy=True).clamp_(-1, num_classes)
        pair = row.mul_(side).add_(column).add_(side + 1)
        pair.masked_fill_(label == ignore_index, 0)
        histogram = spread_histogram if pair.is_cuda else torch.bincount
        return histogram(pair.flatten(), minlength=side**2).view(side, side)

    def evaluate(self, size: int) -> dict[str, float]:
        """The metrics over all images of all ranks; see `IoUMetric`."""
        if self.results:
            self.results = list(torch.stack(self.results).cpu().numpy())
        metrics: dict[str, float] = super().evaluate(size)
        return metrics

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """The metrics over all images.

        Args:
            results: The counts of every image, as `intersect_and_union` returns them, as arrays.
        """
        if results:
            total = np.sum(results, axis=0, dtype=np.int64)
            intersect, predicted, annotated = torch.from_numpy(total)
            results = [(intersect, predicted + annotated - intersect, predicted, annotated)]
        metrics: dict[str, float] = super().compute_metrics(results)
        return metrics


def spread_histogram(values: Tensor, minlength: int) -> Tensor:
    """`torch.bincount` for a GPU.

    Neighbours mostly are of one class, and a GPU's threads that add to one number wait for each
    other. Here they have counters of their own, which are added up. Nor is the GPU waited for, as
    `bincount` does for the least and the largest value.

    Args:
        values: (n), int32, all from 0 to `minlength` - 1.
        minlength: How many bins there are.

    Returns:
        (minlength), int64.
    """
    counters = max(1, min(MOST_COUNTERS, MOST_COUNTERS_OF_ALL // minlength))
    position = torch.arange(len(values), device=values.device)
    index = position.remainder_(counters).add_(values, alpha=counters)
    counts = torch.zeros(minlength * counters, dtype=torch.int32, device=values.device)
    counts.scatter_add_(0, index, torch.ones_like(counts[:1]).expand(len(values)))
    return counts.view(minlength, counters).sum(1)
