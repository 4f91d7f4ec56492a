"""Labels of an evaluation in a byte a pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mmengine.structures import PixelData
from mmseg.datasets.transforms import PackSegInputs
from mmseg.registry import TRANSFORMS


@TRANSFORMS.register_module()
class PackByteLabels(PackSegInputs):
    """`PackSegInputs` with the labels as they were loaded, if that is in bytes.

    `PackSegInputs` makes eight bytes of each, which cross to the main process and on to the
    device: of an image in Cityscapes, 16 MiB beside the 6 of its pixels.

    Arguments are those of `PackSegInputs`.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Pack one image.

        Args:
            results: What the pipeline has loaded.

        Returns:
            As `PackSegInputs`; `gt_sem_seg` is uint8 if the mask was loaded so.
        """
        label_HW = results.get('gt_seg_map')
        if label_HW is None or label_HW.dtype != np.uint8 or label_HW.ndim != 2:
            packed: dict[str, Any] = super().transform(results)
            return packed
        packed = super().transform({k: v for k, v in results.items() if k != 'gt_seg_map'})
        # A copy: what was flipped cannot be a tensor as it is.
        label_1HW = torch.from_numpy(label_HW[None].copy())
        packed['data_samples'].gt_sem_seg = PixelData(data=label_1HW)
        return packed
