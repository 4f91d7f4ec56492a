"""Distil large semantic segmentation networks into small ones.

Importing the package costs nothing and changes nothing. `mmseg_kd.register` registers what it has
with mmengine, for configs; the rooms below (`mmseg_kd.losses`, `mmseg_kd.networks`, ...) and
`mmseg_kd.distill` are imported when they are first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmseg_kd.engine.distill import Distilled, distill

__version__ = '0.1.0'

__all__ = ['Distilled', '__version__', 'distill']


def __getattr__(name: str) -> Any:
    if name in ('Distilled', 'distill'):
        return getattr(import_module('mmseg_kd.engine.distill'), name)
    try:
        return import_module(f'{__name__}.{name}')
    except ModuleNotFoundError as error:
        if error.name != f'{__name__}.{name}':
            raise
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}') from None
