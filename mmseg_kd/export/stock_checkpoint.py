"""A student's weights in the form of stock mmseg's checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mmseg
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS
from torch import nn

from mmseg_kd.checkpoints import save_weights


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


def dataset_meta(dataset: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Classes and palette of a data set, from its config; its files need not be here.

    Args:
        dataset: The config; None, or one that wraps other data sets: they are not known.
    """
    kind = DATASETS.get(dataset.get('type', '')) if dataset else None
    if not (isinstance(kind, type) and issubclass(kind, BaseSegDataset)):
        return None
    built = DATASETS.build({**(dataset or {}), 'pipeline': [], 'lazy_init': True})
    meta: Mapping[str, Any] = built.metainfo
    return meta


def save_student(network: nn.Module, target: Path, meta: Mapping[str, Any]) -> None:
    """Write the weights of a segmentor, on the CPU, as a whole or not at all.

    Args:
        network: The student itself, without a wrapper.
        target: As in `save_weights`.

    Raises:
        CheckpointError: As in `save_weights`.
    """
    tensors = {key: tensor.detach().cpu() for key, tensor in network.state_dict().items()}
    save_weights(tensors, target, meta)
