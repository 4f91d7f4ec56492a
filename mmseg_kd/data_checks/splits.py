"""What a config says of the data that a check goes through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.config import Config

from mmseg_kd.config.network_spec import trained_network_of
from mmseg_kd.data_checks.findings import SPLITS
from mmseg_kd.errors import ConfigError


def splits_of(cfg: Config, wanted: Sequence[str] | None) -> tuple[dict[str, Any], dict[str, str]]:
    """The data sets of a config by split, and the splits that are the same as one before.

    Raises:
        ConfigError: There is none, or not one that is wanted.
    """
    found: dict[str, Any] = {}
    same: dict[str, str] = {}
    for name in SPLITS:
        dataset = (cfg.get(f'{name}_dataloader') or {}).get('dataset')
        if dataset is None or name not in (wanted or SPLITS):
            continue
        twin = next((other for other, known in found.items() if known == dataset), None)
        if twin is None:
            found[name] = dataset
        else:
            same[name] = twin
    missing = set(wanted or ()) - found.keys() - same.keys()
    if missing or not found:
        names = ' and '.join(f'{name}_dataloader' for name in sorted(missing) or SPLITS)
        raise ConfigError(f'expected {names} with a dataset in the config; found none.')
    return found, same


def expected_of(cfg: Config) -> tuple[int | None, int | None]:
    """How many classes the config's network tells apart, and channels of an image that it takes.

    None stands for what the config does not say, such as one of a data set alone.
    """
    if cfg.get('model') is None:
        return None, None
    model = trained_network_of(cfg).model
    heads = model.get('decode_head') or {}
    head = heads[-1] if isinstance(heads, (list, tuple)) else heads
    mean = (model.get('data_preprocessor') or {}).get('mean')
    return head.get('num_classes'), None if mean is None else len(mean)
