"""The registries of this package, and the building of their members from config dicts."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from mmengine.registry import Registry

from mmseg_kd.errors import ConfigError, nearest

# `locations` are imported by the registry before its first look-up.
KD_LOSSES = Registry('kd_loss', scope='mmseg_kd', locations=['mmseg_kd.losses'])
CONNECTORS = Registry('connector', scope='mmseg_kd', locations=['mmseg_kd.connectors'])
SCHEDULES = Registry('schedule', scope='mmseg_kd', locations=['mmseg_kd.schedules'])


def build(registry: Registry, cfg: Any, where: str, **injected: Any) -> Any:
    """Build a member of `registry` from `dict(type=..., **arguments)`.

    Args:
        registry: One of the registries above.
        cfg: The config dict. It is not changed.
        where: The place in the user's config, for messages.
        injected: Arguments that the config does not write, such as channel counts.

    Raises:
        ConfigError: `cfg` is no dict, has no or an unknown `type`, an unknown or a missing
            argument, or the member refused a value.
    """
    if not isinstance(cfg, Mapping) or 'type' not in cfg:
        raise ConfigError(f"{where}: expected dict(type='...', ...), got {cfg!r}.")
    arguments = {key: value for key, value in cfg.items() if key not in ('type', '_scope_')}
    name = cfg['type']
    if not (isinstance(name, str) or callable(name)):
        raise ConfigError(f'{where}: expected a name or a class as type, got {name!r}.')
    member = registry.get(name) if isinstance(name, str) else name
    if member is None:
        names = registry.module_dict
        raise ConfigError(
            f'{where}: there is no {registry.name} {name!r}; {nearest(name, names)}. '
            'A class of your own must be registered in a module that custom_imports names.'
        )
    parameters = inspect.signature(member).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    open_names = [p for p in parameters if p not in injected]
    for key in arguments:
        if key not in open_names and not takes_any:
            raise ConfigError(
                f'{where}: {name} has no argument {key!r}; {nearest(key, open_names)}.'
            )
    try:
        return member(**arguments, **injected)
    except (TypeError, ValueError) as error:
        raise ConfigError(f'{where}: {name}: {error}') from error
