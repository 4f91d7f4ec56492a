"""The config of a run: read, with its overrides, and seen to be one."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from inspect import signature
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from mmseg_kd.config.experiments import read_config
from mmseg_kd.config.file import apply_options
from mmseg_kd.config.recipes import expanded
from mmseg_kd.errors import ConfigError, Problems, short_repr
from mmseg_kd.host.quiet import as_config_error


def load_config(name: str, options: Mapping[str, Any] | None, needs_model: bool = True) -> Config:
    """Read a config, apply overrides, and write recipes out as terms.

    Args:
        name: A file, `FILE.py::NAME` or `mmseg::...`.
        options: The overrides.
        needs_model: Whether a config without a model is an error.

    Raises:
        ConfigError: The file or one of its bases is missing or broken, an override leads
            nowhere, a key at its top is most likely a misspelt one, or there is no model in it;
            `ManyErrors` where that is more than one.
    """
    with as_config_error(str(name)):
        cfg = read_config(name)
        own = set(cfg.keys())
        apply_options(cfg, options or {}, '--cfg-options')
    check_config(cfg, name, cfg.keys() - own, needs_model)
    if 'distillation' in (cfg.get('model') or ()):
        cfg.model.distillation = expanded(cfg.model.distillation)
    return cfg


def check_config(
    cfg: Config, name: str, added: Collection[str] = (), needs_model: bool = True
) -> None:
    """See that a config has a model, and at its top no misspelt key.

    Args:
        cfg: The config.
        name: What messages call it.
        added: As in `check_keys`.
        needs_model: As in `load_config`.

    Raises:
        ConfigError: It has not; `ManyErrors` where both are wrong.
    """
    model = cfg.get('model')
    if isinstance(model, Mapping) and model.get('type') == 'SDModule':
        raise ConfigError(
            f'{name}: is a config of SegDistill; convert it first: '
            f'mmseg-kd convert-segdistill config {name} NEW.py'
        )
    problems = Problems()
    with problems:
        check_keys(cfg, added)
    if (needs_model or model is not None) and not (isinstance(model, Mapping) and 'type' in model):
        problems.add(f"{name}: expected model = dict(type='...', ...), got {short_repr(model)}.")
    problems.raise_if_any()


def runner_keys() -> set[str]:
    """What a config may have at its top that a runner looks at."""
    known = set(signature(Runner.__init__).parameters) - {'self', 'cfg', 'experiment_name'}
    known |= {'custom_imports', 'tta_model', 'tta_pipeline', 'find_unused_parameters'}
    return known | {'data_preprocessor', 'model_wrapper_cfg', 'sync_bn', 'compile'}


def check_keys(cfg: Config, added: Collection[str] = ()) -> None:
    """Find misspelt keys at the top of a config, which the runner would skip.

    A config may define variables of its own, so only names that are nearly, but not quite, one
    of the runner's are refused; very nearly, where the config has the runner's name as well.

    Args:
        cfg: The config.
        added: Keys that options have added: variables of a config's own are not among them.

    Raises:
        ConfigError: There is such a key; `ManyErrors` where there are more.
    """
    known = runner_keys()
    # Variables that nearly every data set's config has, and that are close to tta_pipeline.
    variables = {'train_pipeline', 'val_pipeline', 'test_pipeline'}
    problems = Problems()
    for key in sorted(cfg.keys() - known - variables):
        close = difflib.get_close_matches(key, known - cfg.keys(), n=1, cutoff=0.85)
        cutoff = 0.85 if key in added else 0.92
        close = close or difflib.get_close_matches(key, known, n=1, cutoff=cutoff)
        if close:
            problems.add(f'unknown key {key!r} in the config; did you mean {close[0]!r}?')
    problems.raise_if_any()
