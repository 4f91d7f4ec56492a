"""What a config says of a distillation as a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmseg_kd.config.network_spec import (
    NetworkSpec,
    parse_student,
    parse_teachers,
    with_student,
)
from mmseg_kd.config.term_spec import Layers, TermSpec, parse_terms
from mmseg_kd.errors import Problems


@dataclass(frozen=True)
class DistillationSpec:
    """What a config says of a distillation: all of it that can be read.

    Attributes:
        student: None where it cannot be read.
        teachers: By name.
        names: Of all teachers, in the order of the config.
        terms: In the order of the config.
        layers: Of each term, of those too in which something else is wrong, with its place.
    """

    student: NetworkSpec | None
    teachers: Mapping[str, NetworkSpec]
    names: Sequence[str]
    terms: Sequence[TermSpec]
    layers: Sequence[tuple[str, Layers]]


def parse_distillation(
    student: Any, teacher: Any, distillation: Any, data_preprocessor: Any, problems: Problems
) -> DistillationSpec:
    """Read a distillation; no network is built.

    Args:
        student, teacher, distillation, data_preprocessor: As in `DistillationWrapper`.
        problems: Gets all that is wrong with them.
    """
    student_spec: NetworkSpec | None = None
    with problems:
        student_spec = parse_student(student, data_preprocessor)
    names, teachers = parse_teachers(teacher, problems)
    stored = [name for name, one in teachers.items() if one.stored]
    if len(stored) > 1:
        problems.add(
            f'teacher: {" and ".join(stored)} are stored=True, and images come with the scores '
            'of one; let the others run.'
        )
    terms = parse_terms(distillation, names, problems)
    if distillation and not names:
        problems.add('teacher: there are terms in distillation, but no teacher.')
    teachers = with_student(teachers, student_spec)
    return DistillationSpec(student_spec, teachers, names, terms.specs, terms.layers)
