"""A student's weights in the form of stock mmseg's checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mmseg
from torch import nn

from mmseg_kd.checkpoints.save import save_weights


def stock_meta(data: Mapping[str, Any] | None, **others: Any) -> dict[str, Any]:
    """What stands beside the weights.

    Args:
        data: Meta information of a data set; its `classes` and `palette` are what mmseg's inference
            paints with. None: not known.
        others: Entries of any kind.
    """
    meta = {'mmseg_version': mmseg.__version__, **others}
    if data is not None:
        meta['dataset_meta'] = {key: data[key] for key in ('classes', 'palette') if key in data}
    return meta


def save_student(network: nn.Module, target: Path, meta: Mapping[str, Any]) -> None:
    """Write the weights of a segmentor, on the CPU, as a whole or not at all.

    Args:
        network: The student itself, without a wrapper.
        target: As in `save_weights`.
        meta: What stands beside the weights, as `stock_meta` makes it.

    Raises:
        CheckpointError: As in `save_weights`.
    """
    tensors = {key: tensor.detach().cpu() for key, tensor in network.state_dict().items()}
    save_weights(tensors, target, meta)
