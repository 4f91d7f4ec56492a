"""A part of train to choose on, so that what is reported is never tuned on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from mmseg_kd.checks import is_integer
from mmseg_kd.data_checks.preflight import build_dataset
from mmseg_kd.errors import ConfigError, Problems, short_repr

_KEYS = ('every', 'block')
# Of data sets, by what their configs say: to list files takes a second, and values are many.
_LENGTHS: dict[str, int] = {}


def hold_out(cfg: Config, given: Any, where: str) -> None:
    """Validate on a part of train, and train on the rest.

    Samples are taken in blocks, as frames that follow one another are much alike: of each `every`
    blocks of `block` samples the last is held out.

    Args:
        cfg: Is changed; validation keeps its pipeline.
        given: dict(every=6, block=12), from a plan; block=1 where it has none.
        where: What messages call it.

    Raises:
        ConfigError: `given` is no such dict, or the training data have no `indices`.
        DatasetError: There are no files.
    """
    if not isinstance(given, Mapping) or 'every' not in given:
        raise ConfigError(f'{where}: expected dict(every=N, block=N), got {short_repr(given)}.')
    problems = Problems()
    problems.add_unknown_keys(given, _KEYS, where)
    problems.raise_if_any()
    every, block = given['every'], given.get('block', 1)
    if not (is_integer(every) and every >= 2 and is_integer(block) and block >= 1):
        raise ConfigError(
            f'{where}: expected whole numbers, every >= 2 and block >= 1, got {dict(given)}.'
        )
    if cfg.get('val_cfg') is None:
        raise ConfigError(f'{where}: expected a config that validates; it has no val_cfg.')
    dataset = cfg.train_dataloader.dataset
    if 'dataset' in dataset or 'datasets' in dataset:
        raise ConfigError(
            f'{where}: expected one data set in train_dataloader, got {dataset.type}, which wraps '
            'others; give train and validation their `indices` in the config instead.'
        )
    before = dataset.get('indices')
    if before is None or is_integer(before):
        whole = range(_length({key: one for key, one in dataset.items() if key != 'indices'}))
        # As the data set takes a number: so many from the start, or from the end.
        before = whole if before is None else whole[:before] if before >= 0 else whole[before:]
    held = [one for place, one in enumerate(before) if place // block % every == every - 1]
    kept = [one for place, one in enumerate(before) if place // block % every != every - 1]
    if not held:
        raise ConfigError(
            f'{where}: nothing is held out of {len(kept)} samples; expected every * block <= that '
            f'number, got {every * block}.'
        )
    validated = cfg.val_dataloader.dataset
    own = {key: validated[key] for key in ('pipeline', 'test_mode') if key in validated}
    cfg.val_dataloader.dataset = {**dataset, **own, 'indices': held}
    dataset.indices = kept


def _length(dataset: Any) -> int:
    key = repr(dataset)
    if key not in _LENGTHS:
        _LENGTHS[key] = len(build_dataset(dataset, 'train'))
    return _LENGTHS[key]
