"""One entry of `distillation` at work: layers, a connector, a loss, a weight over time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmseg_kd.config.term_spec import TermSpec
from mmseg_kd.connectors import ConvConnector, teacher_side
from mmseg_kd.distillation.auto_weight import AutoWeight
from mmseg_kd.distillation.class_map import ClassMap
from mmseg_kd.errors import ShapeError
from mmseg_kd.host.iteration import at_iteration, current_iteration
from mmseg_kd.networks.probe import evaluating
from mmseg_kd.networks.taps import Taps
from mmseg_kd.registry import CONNECTORS, build


class Term(nn.Module):
    """Compares layers of the student with layers of one teacher, or of several.

    Args:
        spec: The term as the config has it.
        connector: Brings the student's map to the teacher's channels; None: as it is.
        class_maps: Bring class scores to the classes of both sides, by the teacher's name.

    Attributes:
        compares_scores: Whether it compares class scores of both sides, where there is no mask too.
    """

    compares_scores = False

    def __init__(
        self,
        spec: TermSpec,
        connector: nn.Module | None = None,
        class_maps: Mapping[str, ClassMap] | None = None,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.name = spec.name
        self.layers = spec.layers
        self.loss = spec.loss
        self.connector = connector
        self.auto = AutoWeight() if spec.is_auto else None
        self._teachers_with_map = list(class_maps or ())
        self._class_maps = nn.ModuleList((class_maps or {}).values())

    def planned_weight(self) -> float:
        """What the config says of this iteration, which nobody need count without a schedule."""
        if not self.spec.schedules:
            return self.spec.weight
        return self.spec.weight_at(current_iteration())

    def forward(
        self, student: Taps, teachers: Mapping[str, Taps], label_NHW: Tensor | None
    ) -> Tensor:
        """The loss without its weight, of what the layers put out.

        Args:
            student: The student's taps.
            teachers: The teachers' taps, by name.
            label_NHW: Class indices.
        """
        loss: Tensor
        if self.layers.is_list:
            ((name, layers),) = self.layers.teachers.items()
            loss = self.loss(
                [student.outputs[layer] for layer in self.layers.student],
                [teachers[name].outputs[layer] for layer in layers],
                label_NHW,
            )
            return loss
        student_NChw = self.student_map(student)
        if self.connector is not None:
            student_NChw = self.connector(student_NChw)
        maps = [
            teacher_side(self.connector, self.teacher_map(name, teachers[name]))
            for name in self.layers.teachers
        ]
        if label_NHW is not None and self._class_maps:
            label_NHW = self._class_map(self._teachers_with_map[0]).of_label(label_NHW)
        loss = self.loss(student_NChw, maps[0] if len(maps) == 1 else maps, label_NHW)
        return loss

    def student_map(self, student: Taps) -> Tensor:
        """What the student's layer put out, with the classes of both sides."""
        map_NChw = student.map(self.layers.student[0])
        # All maps of a term keep the same classes.
        first = next(iter(self._teachers_with_map), None)
        return map_NChw if first is None else self._class_map(first).of_student(map_NChw)

    def teacher_map(self, name: str, teacher: Taps) -> Tensor:
        """What a teacher's layer put out, with the classes of both sides."""
        map_NChw = teacher.map(self.layers.teachers[name][0])
        if name not in self._teachers_with_map:
            return map_NChw
        return self._class_map(name).of_teacher(map_NChw)

    def _class_map(self, name: str) -> ClassMap:
        found = self._class_maps[self._teachers_with_map.index(name)]
        assert isinstance(found, ClassMap)
        return found


def idle_loss(parameters: Iterable[nn.Parameter], device: torch.device) -> Tensor:
    """Zero, with a zero gradient for parameters: DDP waits for that of each, used or not."""
    zeros = [p.sum() * 0.0 for p in parameters]
    return torch.stack(zeros).sum() if zeros else torch.zeros((), device=device)


def make_term(
    spec: TermSpec,
    student: Taps,
    teachers: Mapping[str, Taps],
    classes: Mapping[str, tuple[int, int]],
    class_maps: Mapping[str, ClassMap],
) -> Term:
    """A term with the connector that its layers need.

    Args:
        spec: The term as the config has it.
        student, teachers: What the layers put out in a dry run on one image.
        classes: The number of classes of student and teacher, by the teacher's name, where the
            layers of both put out class scores, and no map brings them together.
        class_maps: By the teacher's name.

    Raises:
        ConfigError: The connector is not known or refuses its arguments.
        ShapeError: The layers cannot be compared.
    """
    if spec.layers.is_list:
        return _checked(Term(spec), spec, student, teachers)
    term = Term(spec, None, class_maps)
    channels = term.student_map(student).shape[1]
    theirs = {
        name: term.teacher_map(name, teachers[name]).shape[1] for name in spec.layers.teachers
    }
    if len(set(theirs.values())) > 1:
        raise ShapeError(
            f'{spec.where}: the teachers give different numbers of channels, which cannot be '
            f'averaged: {theirs}.'
        )
    wanted = next(iter(theirs.values()))
    needs_same = getattr(spec.loss, 'needs_same_channels', True)
    connector: nn.Module | None
    if spec.connector == 'auto' and needs_same:
        for ours, other in classes.values():
            if ours != other:
                differ = f'the student tells {ours} classes apart and the teacher {other}'
                if 1 in (ours, other):
                    differ = f"the student's scores have {ours} channels and the teacher's {other}"
                raise ShapeError(
                    f'{spec.where}: {differ}, so their scores cannot be compared; take a teacher '
                    'with the same classes, say which are which by its class_map, pair earlier '
                    'layers, or write '
                    "connector=dict(type='ConvConnector')."
                )
        connector = None if channels == wanted else ConvConnector(channels, wanted)
    elif spec.connector in ('auto', None):
        connector = None
    else:
        connector = build(
            CONNECTORS,
            spec.connector,
            f'{spec.where}.connector',
            student_channels=channels,
            teacher_channels=wanted,
        )
    if connector is not None:
        with evaluating(connector):
            channels = connector(term.student_map(student)).shape[1]
    if channels != wanted and needs_same:
        layer, *_ = next(iter(spec.layers.teachers.values()))
        raise ShapeError(
            f'{spec.where}: {spec.layers.student[0]!r} gives {channels} channels and '
            f"{layer!r} {wanted}; with connector='auto' a convolution is added."
        )
    check_channels: Any = getattr(spec.loss, 'check_channels', None)
    if check_channels is not None:
        try:
            check_channels(wanted)
        except ValueError as error:
            raise ShapeError(f'{spec.where}.loss: {type(spec.loss).__name__}: {error}') from error
    term.connector = connector
    return _checked(term, spec, student, teachers)


def _checked(term: Term, spec: TermSpec, student: Taps, teachers: Mapping[str, Taps]) -> Term:
    """`term`, after one computation on what a dry run gave: a loss checks its own shapes."""
    kind = type(spec.loss).__name__
    label_NHW = torch.zeros(1, *student.image_size, dtype=torch.long)
    try:
        with evaluating(term), at_iteration(0):
            value = term(student, teachers, label_NHW)
    except Exception as error:  # whatever a loss raises that cannot take these shapes
        hint = ' (a loss is called with student, teacher and labels)'
        text = f'{error}{hint if isinstance(error, TypeError) else ""}'
        raise ShapeError(f'{spec.where}: {kind}: {text}') from error
    if not (isinstance(value, Tensor) and value.ndim == 0):
        shape = f'of shape {tuple(value.shape)}' if isinstance(value, Tensor) else repr(value)
        raise ShapeError(f'{spec.where}: {kind}: expected a scalar tensor, got one {shape}.')
    return term
