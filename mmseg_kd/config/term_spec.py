"""What the config says of a term: one entry of `distillation`, read and checked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from mmseg_kd.checks import is_name
from mmseg_kd.config.fields import TermFields, keys_of
from mmseg_kd.config.reduction import expand_teachers, is_weight
from mmseg_kd.errors import ConfigError, Problems, nearest, short_repr
from mmseg_kd.registry import CONNECTORS, KD_LOSSES, SCHEDULES, build, look_up

Schedule = Callable[[int], float]

_KEYS = keys_of(TermFields)

# Arguments of a connector that the layers give.
CHANNELS = ('student_channels', 'teacher_channels')

# Terms are kept in an nn.ModuleDict, which takes no name of its own attributes.
_RESERVED = frozenset(dir(nn.ModuleDict()))


@dataclass(frozen=True)
class Layers:
    """The layers that a term taps.

    Attributes:
        student: Names; several where the loss takes several.
        teachers: As many names for each of its teachers, by the teacher's name.
        is_list: Whether the config has lists of layers: the loss then gets lists of what they
            put out, as it is.
    """

    student: tuple[str, ...]
    teachers: Mapping[str, tuple[str, ...]]
    is_list: bool


class HasLayers(Protocol):
    """A term, or what the config says of one."""

    @property
    def layers(self) -> Layers:
        """What it taps."""


@dataclass(frozen=True)
class TermSpec:
    """A term as the config has it, checked as far as that goes without the networks."""

    where: str
    name: str
    layers: Layers
    loss: nn.Module
    weight: float
    schedules: tuple[Schedule, ...]
    connector: Any


def parse_terms(cfgs: Any, teachers: Sequence[str], problems: Problems) -> list[TermSpec]:
    """Read the list `distillation=[dict(...), ...]`.

    Args:
        cfgs: The list.
        teachers: Names of the config's teachers, in its order.
        problems: Gets all that is wrong with it.

    Returns:
        The terms that can be read.
    """
    if not isinstance(cfgs, (list, tuple)):
        problems.add(
            ConfigError(
                'distillation: expected a list of dicts, with [] for the plain student, got '
                f'{short_repr(cfgs)}.'
            )
        )
        return []
    specs: list[TermSpec] = []
    taken: set[str] = set()
    for index, cfg in enumerate(cfgs):
        where = f'distillation[{index}]'
        with problems:
            for entry in expand_teachers(cfg, where, teachers):
                # The default name tells teachers apart where there are several.
                suffix = ''.join(f'_{name}' for name in entry['teacher'] if len(teachers) > 1)
                specs.append(_parse_term(entry, where, suffix, taken))
    return specs


def parse_layers(cfgs: Any, teachers: Sequence[str]) -> list[tuple[str, Layers]]:
    """The layers that the entries of `distillation` name, each with its place in the config.

    Entries whose layers or teachers cannot be read are left out: `parse_terms` reports them.
    """
    found = []
    for index, cfg in enumerate(cfgs if isinstance(cfgs, (list, tuple)) else ()):
        where = f'distillation[{index}]'
        with suppress(ConfigError):
            found += [
                (where, _layers(entry, where)) for entry in expand_teachers(cfg, where, teachers)
            ]
    return found


def _layers(cfg: Mapping[str, Any], where: str) -> Layers:
    """The layers of an entry whose `teacher` is a list of names."""
    problems = Problems()
    student: tuple[str, ...] = ()
    teachers: dict[str, tuple[str, ...]] = {}
    with problems:
        student = _names(cfg, 'student_layer', where)
    theirs = cfg.get('teacher_layer')
    with problems:
        if isinstance(theirs, Mapping):
            place = f'{where}.teacher_layer'
            teachers = {name: _names(theirs, name, place) for name in cfg['teacher']}
        else:
            teachers = dict.fromkeys(cfg['teacher'], _names(cfg, 'teacher_layer', where))
    problems.raise_if_any()
    is_list = not isinstance(cfg['student_layer'], str)
    for name, names in teachers.items():
        if len(names) != len(student):
            raise ConfigError(
                f'{where}: expected as many layers of the teacher as of the student, got '
                f'{len(names)} ({name!r}) and {len(student)}.'
            )
    return Layers(student, teachers, is_list)


def _names(cfg: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    """A layer's name, or a list of names."""
    if key not in cfg:
        raise ConfigError(f'{where}: {key} is missing.')
    value = cfg[key]
    names = [value] if isinstance(value, str) else value
    if not (isinstance(names, (list, tuple)) and names and all(isinstance(n, str) for n in names)):
        raise ConfigError(f"{where}.{key}: expected a layer's name, got {short_repr(value)}.")
    return tuple(names)


def _parse_term(cfg: Mapping[str, Any], where: str, suffix: str, taken: set[str]) -> TermSpec:
    problems = Problems()
    for key in cfg:
        if key not in _KEYS:
            problems.add(ConfigError(f'{where}: unknown key {key!r}; {nearest(key, _KEYS)}.'))
    layers = Layers((), {}, False)
    with problems:
        layers = _layers(cfg, where)
    weight = cfg.get('weight', 1.0)
    if not is_weight(weight):
        problems.add(
            ConfigError(f'{where}.weight: expected a finite number >= 0, got {short_repr(weight)}.')
        )
    schedules: list[Schedule] = []
    for i, one in enumerate(cfg['schedule']):
        with problems:
            schedules.append(_schedule(one, f'{where}.schedule[{i}]'))
    loss: Any = None
    with problems:
        if 'loss' not in cfg:
            raise ConfigError(f'{where}: loss is missing.')
        loss = build(KD_LOSSES, cfg['loss'], f'{where}.loss')
        _check_loss(loss, layers, cfg, where)
    connector = cfg.get('connector', 'auto')
    with problems:
        _check_connector(connector, f'{where}.connector')
    name = cfg.get('name')
    if name is None:
        name = _free_name(type(loss).__name__, suffix, taken)
    elif not is_name(name):
        problems.add(
            ConfigError(
                f"{where}.name: expected letters, digits, '_' and '-', got {short_repr(name)}."
            )
        )
    elif name in _RESERVED:
        problems.add(
            ConfigError(
                f'{where}.name: {name!r} clashes with nn.ModuleDict.{name}; choose another.'
            )
        )
    elif name in taken:
        problems.add(ConfigError(f'{where}.name: {name!r} is the name of another term.'))
    problems.raise_if_any()
    taken.add(name)
    return TermSpec(
        where=where,
        name=name,
        layers=layers,
        loss=loss,
        weight=float(weight),
        schedules=tuple(schedules),
        connector=connector,
    )


def _schedule(cfg: Any, where: str) -> Schedule:
    schedule: Schedule = build(SCHEDULES, cfg, where)
    if not callable(schedule):
        raise ConfigError(
            f'{where}: expected a class whose objects are called with the iteration, got '
            f'{type(schedule).__name__}.'
        )
    return schedule


def _check_connector(connector: Any, where: str) -> None:
    """See that a connector can be looked up; it is built when the channels are known."""
    if connector is None or connector == 'auto':
        return
    if not isinstance(connector, Mapping):
        raise ConfigError(
            f"{where}: expected 'auto', None or dict(type='ConvConnector', ...), got "
            f'{short_repr(connector)}.'
        )
    look_up(CONNECTORS, connector, where, CHANNELS)


def _check_loss(loss: Any, layers: Layers, cfg: Mapping[str, Any], where: str) -> None:
    """See that the loss takes as many layers and teachers as the entry names."""
    kind = type(loss).__name__
    expected = getattr(loss, 'layers_per_side', 1)
    if layers.student and (len(layers.student) != expected or layers.is_list != (expected > 1)):
        what = 'a list of layers' if layers.is_list else 'one layer'
        needs = f'a list of {expected} layers' if expected > 1 else 'one layer'
        raise ConfigError(f'{where}: {kind} takes {needs} on each side, got {what}.')
    if layers.is_list and cfg.get('connector', 'auto') not in ('auto', None):
        raise ConfigError(f'{where}.connector: a list of layers is taken as it is, without one.')
    averages = getattr(loss, 'averages_teachers', False) and not layers.is_list
    if len(layers.teachers) > 1 and not averages:
        raise ConfigError(
            f"{where}.reduction: {kind} cannot average teachers; take 'sum' or 'random', or a loss "
            'between distributions (KLLoss, CDLoss, CGDLoss).'
        )


def _free_name(loss: str, suffix: str, taken: Collection[str]) -> str:
    """'cgd' for CGDLoss, 'cgd_b3' with the suffix '_b3', and 'cgd_2' where 'cgd' is taken."""
    stem = (loss.removesuffix('Loss').lower() or 'term') + suffix
    name, count = stem, 1
    while name in taken or name in _RESERVED:
        count += 1
        name = f'{stem}_{count}'
    return name


def student_layers(terms: Iterable[HasLayers]) -> list[str]:
    """The student's layers that `terms` tap, each once."""
    return list(dict.fromkeys(layer for term in terms for layer in term.layers.student))


def teacher_layers(terms: Iterable[HasLayers], teacher: str) -> list[str]:
    """The layers of one teacher that `terms` tap, each once."""
    names = (term.layers.teachers.get(teacher, ()) for term in terms)
    return list(dict.fromkeys(layer for layers in names for layer in layers))
