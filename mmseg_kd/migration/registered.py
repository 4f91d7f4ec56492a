"""Classes of the hosts by name: whether they are there, and which arguments they take."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from mmengine.registry import Registry

from mmseg_kd.errors import nearest
from mmseg_kd.migration.section import Section

REQUIRED = inspect.Parameter.empty


def defaults(kind: type) -> dict[str, Any]:
    """The arguments that a class takes, those of its bases too where it passes `**kwargs` on.

    Returns:
        Their defaults, `REQUIRED` where there is none.
    """
    found: dict[str, Any] = {}
    for base in kind.__mro__:
        if '__init__' not in vars(base) or base is object:
            continue
        parameters = list(inspect.signature(vars(base)['__init__']).parameters.values())[1:]
        for one in parameters:
            if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL):
                found.setdefault(one.name, one.default)
        if not any(one.kind is one.VAR_KEYWORD for one in parameters):
            break
    return found


def find(registry: Registry, name: Any) -> type | None:
    """The class that a registry has under a name; None where it has none."""
    # A name with a scope before it, such as mmcls.ConvNeXt, is of a package that is not here.
    if not isinstance(name, str) or '.' in name:
        return None
    found = registry.get(name)
    return found if isinstance(found, type) else None


def as_it_is(
    section: Section,
    registry: Registry,
    what: str,
    name: str | None = None,
    renamed: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The rest of a section of which at most some arguments are called otherwise today.

    Arguments that the class does not take are reported and left out; so is a class that is
    not there, with its arguments kept for whoever mends it.

    Args:
        what: What the class is, for messages.
        name: What the class is called today, where that is not its old name.
        renamed: New names of arguments by their old ones.
    """
    values = section.rest()
    values['type'] = name = name or values.get('type')
    kind = find(registry, name)
    if kind is None:
        section.problem(
            f'there is no {what} {name!r} in mmseg 1.x; {nearest(str(name), registry.module_dict)}',
            'type',
        )
        return values
    known = {'type', *defaults(kind)}
    kept = {}
    for key, value in values.items():
        new = (renamed or {}).get(key, key)
        if new in known:
            kept[new] = value
        else:
            section.problem(f'{name} of mmseg 1.x has no such argument, left out', key)
    return kept
