"""Configs by the package that they come with: `mmseg::PATH` and `mmseg_kd::PATH`.

`mmseg_kd::` is followed by the path that a config has in this repository, such as
`mmseg_kd::configs/camvid/mit-slim_segformer_camvid-240x320.py`. From a wheel and from a checkout,
and in any working directory, it is found under that name.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import mmseg
from mmengine.config import Config

import mmseg_kd
from mmseg_kd.checkpoints.shipped import SHIPPED, shipped_root
from mmseg_kd.errors import ConfigError, nearest

ZOO = 'mmseg::'
# The folders that are shipped.
_FOLDERS = ('configs', 'distillation_configs')


def packaged_path(name: str) -> Path | None:
    """The file or folder of a name that begins with `mmseg::` or `mmseg_kd::`; None of others.

    Raises:
        ConfigError: There is none; the message has the nearest names.
    """
    package, separator, inside = name.partition('::')
    if f'{package}{separator}' not in (ZOO, SHIPPED):
        return None
    is_own = package == 'mmseg_kd'
    root = shipped_root() if is_own else Path(mmseg.__file__).parent / '.mim' / 'configs'
    folders = [root / folder for folder in _FOLDERS] if is_own else [root]
    path = root / inside
    if path.exists() and any(path.is_relative_to(folder) for folder in folders):
        return path
    version = (mmseg_kd if is_own else mmseg).__version__
    names = [p.relative_to(root).as_posix() for folder in folders for p in folder.rglob('*.py')]
    raise ConfigError(f'{package} {version} has no config {name!r}; {nearest(inside, names)}.')


def take_over_bases() -> None:
    """Have mmengine find a `_base_` that is called `mmseg_kd::...`: it knows its own packages.

    What is in a package it looks up once: for each name it reads all index files of the package.
    """
    own = Config._get_cfg_path
    of_package = cache(own)

    def get_cfg_path(name: str, filename: str) -> tuple[str, str | None]:
        if name.startswith(SHIPPED):
            # Without a scope of its own: what it names is registered with mmseg's.
            return str(packaged_path(name)), None
        # What is in a package lies there wherever it is named.
        path: tuple[str, str | None] = of_package(name, '') if '::' in name else own(name, filename)
        return path

    Config._get_cfg_path = staticmethod(get_cfg_path)
