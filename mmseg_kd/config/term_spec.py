"""What the config says of a term: one entry of `distillation`, read and checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from torch import nn

from mmseg_kd.config.fields import TermFields, WeightFields, keys_of, read_fields
from mmseg_kd.config.recipes import terms_of_entry
from mmseg_kd.config.reduction import expand_teachers
from mmseg_kd.errors import ConfigError, Problems, short_repr
from mmseg_kd.registry import CONNECTORS, KD_LOSSES, SCHEDULES, build, look_up

Schedule = Callable[[int], float]

T = TypeVar('T')

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


# Of a term whose layers cannot be read.
NO_LAYERS = Layers((), {}, False)


class HasLayers(Protocol):
    """A term, or what the config says of one."""

    @property
    def layers(self) -> Layers:
        """What it taps."""


@dataclass(frozen=True)
class TermSpec:
    """A term as the config has it, checked as far as that goes without the networks.

    Attributes:
        where: Its place in the config, for messages.
        name: In the log.
        layers: What it taps.
        loss: What compares them.
        weight: Of the loss; of a weight that sets itself, the share.
        schedules: Factors of it.
        connector: As the config has it.
        is_auto: Whether the weight sets itself.
        conflict: One of `CONFLICTS`.
    """

    where: str
    name: str
    layers: Layers
    loss: nn.Module
    weight: float
    schedules: tuple[Schedule, ...]
    connector: Any
    is_auto: bool = False
    conflict: str = 'keep'

    def weight_at(self, iteration: int) -> float:
        """The weight, or the share, times the product of the schedules' factors."""
        return self.weight * math.prod(schedule(iteration) for schedule in self.schedules)


@dataclass(frozen=True)
class Terms:
    """What a config says of its terms.

    Attributes:
        specs: The terms that can be read.
        layers: The layers of each term, of those too in which something else is wrong, with its
            place in the config.
    """

    specs: Sequence[TermSpec]
    layers: Sequence[tuple[str, Layers]]


def parse_terms(cfgs: Any, teachers: Sequence[str], problems: Problems) -> Terms:
    """Read the list `distillation=[dict(...), ...]`.

    Args:
        cfgs: The list.
        teachers: Names of the config's teachers, in its order.
        problems: Gets all that is wrong with it.
    """
    if not isinstance(cfgs, (list, tuple)):
        problems.add(
            'distillation: expected a list of dicts, with [] for the plain student, got '
            f'{short_repr(cfgs)}.'
        )
        return Terms([], [])
    specs: list[TermSpec] = []
    layers: list[tuple[str, Layers]] = []
    taken: set[str] = set()
    for where, cfg in _entries(cfgs, problems):
        with problems:
            own = Problems()
            auto, entries = _parse_entry(cfg, where, teachers, own)
            layers += [(where, one) for _, one in entries if one is not NO_LAYERS]
            for entry, one in entries:
                # The default name tells teachers apart where there are several.
                suffix = ''.join(f'_{name}' for name in one.teachers if len(teachers) > 1)
                spec = _parse_term(entry, one, where, suffix, taken, own)
                if auto is not None:
                    spec = replace(spec, is_auto=True, conflict=auto.conflict)
                # Over several teachers the same would be wrong with each.
                own.raise_if_any()
                taken.add(spec.name)
                specs.append(spec)
    return Terms(specs, layers)


def _entries(cfgs: Sequence[Any], problems: Problems) -> Iterator[tuple[str, Any]]:
    """The entries with those of recipes, each with its place in the user's config."""
    for index, cfg in enumerate(cfgs):
        where, terms = f'distillation[{index}]', []
        with problems:
            terms = terms_of_entry(cfg, where)
        for number, term in enumerate(terms, 1):
            yield f'{where} (term {number})' if len(terms) > 1 else where, term


def _parse_entry(
    cfg: Any, where: str, teachers: Sequence[str], problems: Problems
) -> tuple[WeightFields | None, list[tuple[TermFields, Layers]]]:
    """An entry of `distillation` over one teacher each, with the layers as far as they are right.

    Returns:
        What it says of a weight that sets itself, whose share is then the weight; and the entries.

    Raises:
        ConfigError: It is no dict, or its teachers cannot be told.
    """
    if not isinstance(cfg, Mapping):
        raise ConfigError(f'{where}: expected a dict, got {short_repr(cfg)}.')
    for key in cfg:
        if not isinstance(key, str):
            raise ConfigError(f'{where}: expected words for keys, got {short_repr(key)}.')
    entry = _read(TermFields, cfg, where, problems)
    auto = None
    if not isinstance(entry.weight, (int, float)):
        given = {} if isinstance(entry.weight, str) else entry.weight
        auto = _read(WeightFields, given, f'{where}.weight', problems)
        entry = replace(entry, weight=auto.share)
    entries: list[TermFields] = []
    with problems:
        entries = expand_teachers(entry, where, teachers)
    if not entries:
        problems.raise_if_any()
    found = []
    for one in entries:
        layers = NO_LAYERS
        with problems:
            layers = _layers(one, where)
        found.append((one, layers))
    return auto, found


def _read(kind: type[T], cfg: Mapping[str, Any], where: str, problems: Problems) -> T:
    """The keys of `kind` in a dict that has no others."""
    known = keys_of(kind)
    problems.add_unknown_keys(cfg, known, where)
    return read_fields(kind, cfg, where, problems)


def _layers(entry: TermFields, where: str) -> Layers:
    """The layers of an entry over one teacher; without names where they are wrong."""
    student, theirs = _names(entry.student_layer), entry.teacher_layer
    teachers = {}
    for name in entry.teacher if isinstance(entry.teacher, list) else ():
        names = _names(theirs[name] if isinstance(theirs, Mapping) else theirs)
        if student and names and len(names) != len(student):
            raise ConfigError(
                f'{where}: expected as many layers of the teacher as of the student, got '
                f'{len(names)} ({name!r}) and {len(student)}.'
            )
        teachers[name] = names
    is_known = bool(student) and all(teachers.values())
    is_list = not isinstance(entry.student_layer, str)
    return Layers(student, teachers, is_list) if is_known else NO_LAYERS


def _names(layer: Any) -> tuple[str, ...]:
    return (layer,) if isinstance(layer, str) else tuple(layer or ())


def _parse_term(
    entry: TermFields,
    layers: Layers,
    where: str,
    suffix: str,
    taken: Collection[str],
    problems: Problems,
) -> TermSpec:
    """The term of an entry over one teacher.

    Args:
        entry: The entry, its schedule a list.
        layers: Its layers.
        where: Its place in the user's config, for messages.
        suffix: What its default name ends with.
        taken: Names of other terms.
        problems: Gets what is wrong with it.
    """
    schedules = parse_schedules(entry.schedule or (), f'{where}.schedule', problems)
    loss: Any = None
    if entry.loss is not None:
        with problems:
            loss = build(KD_LOSSES, entry.loss, f'{where}.loss')
            _check_loss(loss, layers, entry.connector, where)
    with problems:
        if isinstance(entry.connector, Mapping):
            # It is built when the channels are known.
            look_up(CONNECTORS, entry.connector, f'{where}.connector', CHANNELS)
    name = entry.name
    if name is None:
        name = _free_name(type(loss).__name__, suffix, taken)
    elif name in _RESERVED:
        problems.add(f'{where}.name: {name!r} clashes with nn.ModuleDict.{name}; choose another.')
    elif name in taken:
        problems.add(f'{where}.name: {name!r} is the name of another term.')
    assert isinstance(entry.weight, int | float)
    weight = float(entry.weight)
    return TermSpec(where, name, layers, loss, weight, schedules, entry.connector)


def parse_schedules(cfgs: Iterable[Any], where: str, problems: Problems) -> tuple[Schedule, ...]:
    """The schedules of a list in a config.

    Args:
        cfgs: Their dicts.
        where: The place of the list in the user's config, for messages.
        problems: Gets each that is none, or refuses its arguments.
    """
    schedules: list[Schedule] = []
    for index, cfg in enumerate(cfgs):
        with problems:
            schedule = build(SCHEDULES, cfg, f'{where}[{index}]')
            if not callable(schedule):
                raise ConfigError(
                    f'{where}[{index}]: expected a class whose objects are called with the '
                    f'iteration, got {type(schedule).__name__}.'
                )
            schedules.append(schedule)
    return tuple(schedules)


def _check_loss(loss: Any, layers: Layers, connector: Any, where: str) -> None:
    """See that the loss takes as many layers and teachers as the entry names."""
    kind = type(loss).__name__
    expected = getattr(loss, 'layers_per_side', 1)
    if layers.student and (len(layers.student) != expected or layers.is_list != (expected > 1)):
        what = 'a list of layers' if layers.is_list else 'one layer'
        needs = f'a list of {expected} layers' if expected > 1 else 'one layer'
        raise ConfigError(f'{where}: {kind} takes {needs} on each side, got {what}.')
    if layers.is_list and connector not in ('auto', None):
        raise ConfigError(f'{where}.connector: a list of layers is taken as it is, without one.')
    averages = getattr(loss, 'averages_teachers', False) and not layers.is_list
    if len(layers.teachers) > 1 and not averages:
        raise ConfigError(
            f"{where}.reduction: {kind} cannot average teachers; take 'sum' or 'random', or a loss "
            'between distributions, such as KLLoss, CDLoss or CGDLoss.'
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
