"""The registries of this package, and the building of members of any registry from config dicts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from difflib import get_close_matches
from typing import Any

from mmengine.registry import Registry

from mmseg_kd.errors import ConfigError, Problems, nearest, short_repr

# `locations` are imported by the registry before its first look-up.
KD_LOSSES = Registry('kd_loss', scope='mmseg_kd', locations=['mmseg_kd.losses'])
CONNECTORS = Registry('connector', scope='mmseg_kd', locations=['mmseg_kd.connectors'])
SCHEDULES = Registry('schedule', scope='mmseg_kd', locations=['mmseg_kd.schedules'])

# Keys of a config dict that are no arguments.
_OWN_KEYS = ('type', '_scope_')


def build(registry: Registry, cfg: Any, where: str, **injected: Any) -> Any:
    """Build a member of `registry` from `dict(type=..., **arguments)`.

    Args:
        registry: One of the registries above.
        cfg: The config dict. It is not changed.
        where: The place in the user's config, for messages.
        injected: Arguments that the config does not write, such as channel counts.

    Raises:
        ConfigError: As in `look_up`, or the member refused a value.
    """
    member = look_up(registry, cfg, where, injected)
    arguments = {key: value for key, value in cfg.items() if key not in _OWN_KEYS}
    try:
        return member(**arguments, **injected)
    except (TypeError, ValueError) as error:
        raise ConfigError(f'{where}: {_name(cfg["type"])}: {error}') from error


def look_up(
    registry: Registry,
    cfg: Any,
    where: str,
    injected: Collection[str] = (),
    optional: Collection[str] = (),
    is_complete: bool = True,
) -> Callable[..., Any]:
    """The member of `registry` that `dict(type=..., **arguments)` names; nothing is built.

    Args:
        registry: Any registry.
        cfg: The config dict.
        where: The place in the user's config, for messages.
        injected: Arguments that the config must not write.
        optional: Keys that the config may have and the member does not see.
        is_complete: Whether `cfg` and `injected` have all the arguments there will be.

    Raises:
        ConfigError: `cfg` is no dict, has no or an unknown `type`, or an unknown or a missing
            argument; `ManyErrors` where that is more than one.
    """
    if not isinstance(cfg, Mapping) or 'type' not in cfg:
        raise ConfigError(f"{where}: expected dict(type='...', ...), got {short_repr(cfg)}.")
    kind = cfg['type']
    if not (isinstance(kind, str) or callable(kind)):
        raise ConfigError(f'{where}: expected a name or a class as type, got {short_repr(kind)}.')
    member = _find(registry, kind) if isinstance(kind, str) else kind
    if member is None:
        raise ConfigError(
            f'{where}: there is no {registry.name} {kind!r}; {nearest(kind, _names(registry))}. '
            'A class of your own must be registered in a module that custom_imports names.'
        )
    parameters, takes_any = _parameters(member)
    arguments = [key for key in cfg if key not in (*_OWN_KEYS, *optional)]
    problems = Problems()
    open_names = [name for name in parameters if name not in injected]
    for key in arguments:
        # What takes any argument often drops, without a word, one that is misspelt.
        is_other = takes_any and not get_close_matches(str(key), open_names, cutoff=0.85)
        if key not in open_names and not is_other:
            problems.add(
                ConfigError(
                    f'{where}: {_name(kind)} has no argument {key!r}; {nearest(key, open_names)}.'
                )
            )
    needed = [name for name in open_names if parameters[name].default is inspect.Parameter.empty]
    missing = [name for name in needed if name not in arguments]
    # A misspelt argument is one problem, not two.
    if missing and is_complete and not problems.errors:
        names = ', '.join(map(repr, missing))
        problems.add(ConfigError(f'{where}: {_name(kind)}: missing: {names}.'))
    problems.raise_if_any()
    return member


def _find(registry: Registry, name: str) -> Callable[..., Any] | None:
    """The member called `name`, or what can be imported under that name; None: neither."""
    try:
        member = registry.get(name)
    except Exception:  # a name such as '.a', or a module that fails in its import
        return None
    return member if callable(member) else None


def _names(registry: Registry) -> set[str]:
    """Names of all members of a registry and of those that it looks into."""
    names: set[str] = set()
    one: Registry | None = registry
    while one is not None:
        names |= one.module_dict.keys()
        one = one.parent
    return names


def _parameters(member: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """The arguments that a member takes by name, and whether it takes any other."""
    try:
        parameters = inspect.signature(member).parameters
    except (TypeError, ValueError):  # some classes written in C do not tell
        return {}, True
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = {name: p for name, p in parameters.items() if p.kind in by_name}
    return named, any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _name(kind: Any) -> str:
    """A class's name, however the config writes it."""
    return kind if isinstance(kind, str) else getattr(kind, '__name__', repr(kind))
