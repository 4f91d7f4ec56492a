"""Named variants of a config, so that a series of runs is one file and not one for each.

A config with experiments has a dict of them beside the rest:

    experiments = {
        'group30': dict(options={'model.distillation.0.loss.group_size': 30}, published=39.5),
    }

`options` changes the config as `--cfg-options` does; `published`, a mIoU in percent, is what a
paper reports. On the command line an experiment is FILE.py::NAME, where FILE.py may itself be
`mmseg_kd::...`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmseg_kd.checks import is_number
from mmseg_kd.config.file import apply_options, read_config_file
from mmseg_kd.config.packaged import packaged_path
from mmseg_kd.errors import ConfigError, nearest, short_repr

SEPARATOR = '::'


@dataclass(frozen=True)
class Experiment:
    """One variant of a config.

    Attributes:
        name: As on the command line: FILE.py::NAME, or FILE.py of a config without experiments.
        config: The config with its options applied.
        published: mIoU in percent; None where none is known.
    """

    name: str
    config: Config
    published: float | None = None

    @property
    def file(self) -> str:
        """The file in its name."""
        return split_name(self.name)[0]

    @property
    def key(self) -> str | None:
        """What it is called in its file; None of a config without experiments."""
        return split_name(self.name)[1]


def split_name(name: str) -> tuple[str, str | None]:
    """The file and the experiment of FILE.py::NAME; of anything else the name and None."""
    file, separator, experiment = name.rpartition(SEPARATOR)
    return (file, experiment) if separator and file.endswith('.py') else (name, None)


def run_name(name: str) -> str:
    """What the folder of a run is called: FILE, or FILE_NAME of an experiment."""
    file, experiment = split_name(name)
    stem = Path(file).stem
    return stem if experiment is None else f'{stem}_{experiment}'


def read_config(name: str) -> Config:
    """The config called `name` on the command line.

    Raises:
        ConfigError: There is no such file or experiment, or the file has experiments and none
            is named.
    """
    file, wanted = split_name(name)
    config, experiments = _read(file)
    if wanted is None and experiments:
        raise ConfigError(
            f'{file} has {len(experiments)} experiments; name one of them, such as '
            f'{file}{SEPARATOR}{next(iter(experiments))} (mmseg-kd experiments {file} prints all).'
        )
    if wanted is None:
        return config
    if wanted not in experiments:
        raise ConfigError(f'{file} has no experiment {wanted!r}; {nearest(wanted, experiments)}.')
    return _apply(config, experiments[wanted], name)


def find_configs(paths: Iterable[str]) -> Iterator[str]:
    """Names of configs and of those in folders, without what is only a base of others.

    Args:
        paths: Files and folders, those that are called `mmseg_kd::...` too.

    Raises:
        ConfigError: One does not exist.
    """
    for name in paths:
        path = packaged_path(name) or Path(name)
        if path.is_file():
            yield name
        elif path.is_dir():
            files = (Path(name) / file.relative_to(path) for file in sorted(path.rglob('*.py')))
            yield from (file.as_posix() for file in files if '_base_' not in file.parts)
        else:
            raise ConfigError(f'there is no config file or folder {name!r}.')


def experiments_of(file: str) -> Iterator[Experiment]:
    """All experiments of a config, or the config itself where it has none.

    Raises:
        ConfigError: An experiment is not what it must be.
    """
    config, experiments = _read(file)
    if not experiments:
        yield Experiment(file, config)
    for key, one in experiments.items():
        name = f'{file}{SEPARATOR}{key}'
        yield Experiment(name, _apply(deepcopy(config), one, name), one.get('published'))


def _read(file: str) -> tuple[Config, Mapping[str, Any]]:
    config = read_config_file(file)
    experiments = config.pop('experiments', {})
    if not isinstance(experiments, Mapping):
        raise ConfigError(
            f'{file}: experiments: expected a dict by name, got {short_repr(experiments)}.'
        )
    return config, experiments


def _apply(config: Config, experiment: Any, name: str) -> Config:
    if not isinstance(experiment, Mapping) or not set(experiment) <= {'options', 'published'}:
        raise ConfigError(
            f'{name}: expected dict(options=..., published=...), got {short_repr(experiment)}.'
        )
    published = experiment.get('published')
    if not (published is None or is_number(published)):
        raise ConfigError(
            f'{name}: published: expected a mIoU in percent, got {short_repr(published)}.'
        )
    apply_options(config, experiment.get('options', {}), f'{name}: options')
    return config
