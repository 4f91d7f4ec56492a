"""One line of `distillation`: a pair of layers, a connector, a loss, a weight over time."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmseg_kd.connectors import ConvConnector
from mmseg_kd.errors import ConfigError, Problems, ShapeError, nearest
from mmseg_kd.registry import CONNECTORS, KD_LOSSES, SCHEDULES, build

Schedule = Callable[[int], float]

_REQUIRED = ('student_layer', 'teacher_layer', 'loss')
_KEYS = (*_REQUIRED, 'weight', 'schedule', 'connector', 'name')


@dataclass(frozen=True)
class TermSpec:
    """A term as the config has it, checked as far as that goes without the networks."""

    where: str
    name: str
    student_layer: str
    teacher_layer: str
    loss: nn.Module
    weight: float
    schedules: tuple[Schedule, ...]
    connector: Any


def parse_terms(cfgs: Any, problems: Problems) -> list[TermSpec]:
    """Read the list `distillation=[dict(...), ...]`.

    Args:
        cfgs: The list.
        problems: Gets all that is wrong with it.

    Returns:
        The terms that can be read.
    """
    if not isinstance(cfgs, (list, tuple)):
        problems.add(ConfigError(f'distillation: expected a list of dicts, got {cfgs!r}.'))
        return []
    specs: list[TermSpec] = []
    taken: set[str] = set()
    for index, cfg in enumerate(cfgs):
        with problems:
            specs.append(_parse_term(cfg, f'distillation[{index}]', taken))
    return specs


def _parse_term(cfg: Any, where: str, taken: set[str]) -> TermSpec:
    if not isinstance(cfg, Mapping):
        raise ConfigError(f'{where}: expected a dict, got {cfg!r}.')
    problems = Problems()
    for key in cfg:
        if key not in _KEYS:
            problems.add(ConfigError(f'{where}: unknown key {key!r}; {nearest(key, _KEYS)}.'))
    for key in _REQUIRED:
        if key not in cfg:
            problems.add(ConfigError(f'{where}: {key} is missing.'))
    for key in ('student_layer', 'teacher_layer'):
        if not isinstance(cfg.get(key, ''), str):
            problems.add(ConfigError(f"{where}.{key}: expected a layer's name, got {cfg[key]!r}."))
    weight = cfg.get('weight', 1.0)
    if not (isinstance(weight, (int, float)) and math.isfinite(weight) and weight >= 0):
        problems.add(ConfigError(f'{where}.weight: expected a finite number >= 0, got {weight!r}.'))
    schedule = cfg.get('schedule') or []
    schedule = [schedule] if isinstance(schedule, Mapping) else schedule
    loss: Any = None
    schedules: list[Schedule] = []
    with problems:
        loss = build(KD_LOSSES, cfg['loss'], f'{where}.loss') if 'loss' in cfg else None
    for i, one in enumerate(schedule):
        with problems:
            schedules.append(build(SCHEDULES, one, f'{where}.schedule[{i}]'))
    name = cfg.get('name')
    if name is None:
        name = _free_name(type(loss).__name__, taken)
    elif not (isinstance(name, str) and re.fullmatch(r'[A-Za-z0-9_-]+', name)):
        problems.add(
            ConfigError(f"{where}.name: expected letters, digits, '_' and '-', got {name!r}.")
        )
    elif name in taken:
        problems.add(ConfigError(f'{where}.name: {name!r} is the name of another term.'))
    problems.raise_if_any()
    taken.add(name)
    return TermSpec(
        where=where,
        name=name,
        student_layer=cfg['student_layer'],
        teacher_layer=cfg['teacher_layer'],
        loss=loss,
        weight=float(weight),
        schedules=tuple(schedules),
        connector=cfg.get('connector', 'auto'),
    )


def _free_name(loss: str, taken: Collection[str]) -> str:
    """'cgd' for CGDLoss, and 'cgd_2' where that is taken."""
    stem = loss.removesuffix('Loss').lower() or 'term'
    name, count = stem, 1
    while name in taken:
        count += 1
        name = f'{stem}_{count}'
    return name


class Term(nn.Module):
    """Compares one layer of the student with one of the teacher.

    Args:
        spec: The term as the config has it.
        connector: Brings the student's map to the teacher's channels; None: as it is.
    """

    def __init__(self, spec: TermSpec, connector: nn.Module | None) -> None:
        super().__init__()
        self.name = spec.name
        self.student_layer = spec.student_layer
        self.teacher_layer = spec.teacher_layer
        self.schedules = spec.schedules
        self.weight = spec.weight
        self.loss = spec.loss
        self.connector = connector

    def weight_at(self, iteration: int) -> float:
        """The weight times the product of the schedules' factors."""
        return self.weight * math.prod(schedule(iteration) for schedule in self.schedules)

    def forward(
        self, student_NChw: Tensor, teacher_NChw: Tensor, label_NHW: Tensor | None
    ) -> Tensor:
        """The loss without its weight, of what the two layers put out."""
        if self.connector is not None:
            student_NChw = self.connector(student_NChw)
        loss: Tensor = self.loss(student_NChw, teacher_NChw, label_NHW)
        return loss

    def idle(self) -> Tensor | None:
        """Zero with a zero gradient for the term's own parameters, None where it has none.

        DDP waits for the gradient of every parameter, in iterations without this term too.
        """
        parameters = list(self.parameters())
        if not parameters:
            return None
        return torch.stack([p.sum() * 0.0 for p in parameters]).sum()


def make_term(
    spec: TermSpec, student: Tensor, teacher: Tensor, classes: tuple[int, int] | None
) -> Term:
    """A term with the connector that its layers need.

    Args:
        spec: The term as the config has it.
        student, teacher: What the two layers put out in a dry run, as maps (1, C, h, w).
        classes: The number of classes of student and teacher where both layers put out class
            scores, else None.

    Raises:
        ConfigError: The connector is not known or refuses its arguments.
        ShapeError: The layers cannot be compared.
    """
    channels = student.shape[1], teacher.shape[1]
    connector: nn.Module | None
    if spec.connector == 'auto':
        if classes is not None and classes[0] != classes[1]:
            raise ShapeError(
                f'{spec.where}: the student tells {classes[0]} classes apart and the teacher '
                f'{classes[1]}, so their scores cannot be compared; take a teacher with the same '
                "classes, pair earlier layers, or write connector=dict(type='ConvConnector')."
            )
        connector = None if channels[0] == channels[1] else ConvConnector(*channels)
    elif spec.connector is None:
        connector = None
    else:
        connector = build(
            CONNECTORS,
            spec.connector,
            f'{spec.where}.connector',
            student_channels=channels[0],
            teacher_channels=channels[1],
        )
    given = student.shape[1] if connector is None else _channels_after(connector, student)
    if given != channels[1]:
        raise ShapeError(
            f'{spec.where}: {spec.student_layer!r} gives {given} channels and '
            f"{spec.teacher_layer!r} {channels[1]}; with connector='auto' a convolution is added."
        )
    return Term(spec, connector)


def _channels_after(connector: nn.Module, student: Tensor) -> int:
    with torch.no_grad():
        return int(connector(student).shape[1])


def layers_of(terms: Sequence[Term | TermSpec], side: str) -> list[str]:
    """The layers of one side that `terms` tap, each once."""
    return list(dict.fromkeys(getattr(term, f'{side}_layer') for term in terms))
