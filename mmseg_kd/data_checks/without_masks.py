"""Images without masks that nothing says anything of."""

from __future__ import annotations

import logging
from typing import Any

from mmengine.logging import print_log

from mmseg_kd.data_checks.loading import leaves
from mmseg_kd.datasets.unlabelled import UnlabelledDataset


def warn_of_images_without_masks(dataset: Any, scores_are_compared: bool) -> None:
    """Say so where images without masks are trained on beside others and no score of them is.

    Args:
        dataset: What is trained on.
        scores_are_compared: Whether a term compares class scores.
    """
    parts = [*leaves(dataset)]
    without = sum(len(part) for part in parts if isinstance(part, UnlabelledDataset))
    total = sum(map(len, parts))
    if scores_are_compared or without in (0, total):
        return
    print_log(
        f'train data: {without} of {total} images have no masks, and no term compares class '
        'scores of them: nothing says what is in them, and batch norm lets the network tell them '
        'from the others, which costs more than they give. Add a term between class '
        'scores, such as CWD, or leave them out.',
        logger='current',
        level=logging.WARNING,
    )
