"""A step that was not finite, kept in a file as data: all that it takes to run it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import mmengine.structures
import numpy as np
import torch
from mmengine.config import Config
from mmengine.structures import BaseDataElement
from mmseg.structures import SegDataSample
from torch import Tensor

from mmseg_kd.checkpoints import read_checkpoint
from mmseg_kd.checkpoints.save import atomic_write
from mmseg_kd.config.network_spec import is_distillation
from mmseg_kd.config.resolved import resolved
from mmseg_kd.errors import CheckpointError, ConfigError, short_repr

# Of a run's config: what a step depends on.
_KEYS = (
    'model',
    'data_preprocessor',
    'optim_wrapper',
    'default_scope',
    'env_cfg',
    'randomness',
    'sync_bn',
    'compile',
)
# What the shipped configs import, and the commands do by themselves.
_REGISTER = 'mmseg_kd.register'
# What a sample is made of; in the file each is a dict that names its class under this key.
_ELEMENTS = {
    kind.__name__: kind
    for kind in (
        SegDataSample,
        mmengine.structures.PixelData,
        mmengine.structures.InstanceData,
        mmengine.structures.LabelData,
    )
}
_CLASS = '__class__'
_FORMAT = 'failed_step'


@dataclass(frozen=True)
class FailedStep:
    """What a step that was not finite was made of, and what it gave.

    Attributes:
        config: Networks, optimiser and surroundings, without names of other configs.
        weights: Of what is trained, with buffers, before the step.
        teachers: Digests of the teachers' files, by name.
        batches: As the loader gave them: several where gradients are accumulated.
        iterations: How many were complete before each batch.
        max_iters: Of the run.
        seed, rank: What the random numbers of an iteration follow from, beside it.
        scale: That of the loss; None without a scaler.
        losses: The log entries of each batch.
        gradient: The last parameter whose gradient is not finite; None: all are finite.
    """

    config: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    teachers: Mapping[str, str]
    batches: Sequence[Any]
    iterations: Sequence[int]
    max_iters: int
    seed: int
    rank: int
    scale: float | None
    losses: Sequence[Mapping[str, float]]
    gradient: str | None


def config_of(cfg: Config) -> dict[str, Any]:
    """What a step depends on of a run's config, with networks in the place of their configs.

    Raises:
        ConfigError: Something in it is no data, or a network's config cannot be read any more.
    """
    own = {key: cfg[key] for key in _KEYS if cfg.get(key) is not None}
    if is_distillation(cfg):
        model = resolved(cfg.model)
        model['student'].pop('checkpoint', None)  # the weights are those of the step
        own['model'] = model
    imports = (cfg.get('custom_imports') or {}).get('imports', [])
    imports = [imports] if isinstance(imports, str) else imports
    if others := [name for name in imports if name != _REGISTER]:
        own['custom_imports'] = dict(imports=others)
    found: dict[str, Any] = _as_data(own, 'config')
    return found


def write_step(step: FailedStep, file: Path) -> int:
    """Write a step as a whole or not at all; returns the bytes that it takes.

    Raises:
        CheckpointError: The file cannot be written.
        ConfigError: Something in a batch is no data.
    """
    values = {one.name: getattr(step, one.name) for one in fields(step)}
    content = _as_data(values, 'step')
    with atomic_write(file) as unfinished:
        torch.save({_FORMAT: 1, **content}, unfinished)
    return file.stat().st_size


def read_step(file: Path) -> FailedStep:
    """The step in a file, read as data.

    Raises:
        CheckpointError: There is none, or it is torn or would run code.
    """
    content = read_checkpoint(str(file))
    names = {one.name for one in fields(FailedStep)}
    if content.get(_FORMAT) != 1 or not names <= content.keys():
        raise CheckpointError(
            f'{file}: expected a step that was not finite, as a run keeps it in its work dir '
            '(non_finite_iter_N.pth); got something else.'
        )
    return FailedStep(**{name: _from_data(content[name]) for name in names})


def _as_data(value: Any, place: str) -> Any:
    if value is None or isinstance(value, str | bool | int | float | np.ndarray | np.generic):
        return value
    if isinstance(value, Tensor):
        # A copy, else the whole memory of which it is a part would be written; not on a full GPU.
        return value.detach().to('cpu', copy=True)
    if isinstance(value, type):
        return f'{value.__module__}.{value.__qualname__}'
    if isinstance(value, BaseDataElement) and type(value).__name__ in _ELEMENTS:
        parts = dict(value.items()), dict(value.metainfo_items())
        values, metainfo = (_as_data(one, place) for one in parts)
        return {_CLASS: type(value).__name__, 'values': values, 'metainfo': metainfo}
    if isinstance(value, Mapping):
        return {
            # Whole numbers are classes, in a class_map.
            key if isinstance(key, str | int) else str(key): _as_data(one, f'{place}.{key}')
            for key, one in value.items()
        }
    if isinstance(value, list | tuple):
        items = [_as_data(one, f'{place}.{index}') for index, one in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    raise ConfigError(f'{place} is no data: {short_repr(value)}.')


def _from_data(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_from_data(one) for one in value)
    if not isinstance(value, dict):
        return value
    if value.get(_CLASS) in _ELEMENTS:
        element = _ELEMENTS[value[_CLASS]](metainfo=_from_data(value['metainfo']))
        for name, one in _from_data(value['values']).items():
            setattr(element, name, one)
        return element
    return {key: _from_data(one) for key, one in value.items()}
