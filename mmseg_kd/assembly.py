"""From a config's dicts to teacher, student and terms, with all that is wrong said at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mmseg_kd.connectors import as_map
from mmseg_kd.errors import ConfigError, LayerNotFoundError, Problems, ShapeError
from mmseg_kd.network import PROBE_SIZE, NetworkSpec, build_network, parse_network
from mmseg_kd.probe import Probe, probe
from mmseg_kd.recorder import find_layer
from mmseg_kd.teacher import Teacher
from mmseg_kd.term import Term, TermSpec, layers_of, make_term, parse_terms


@dataclass(frozen=True)
class Parts:
    """What a distillation is made of.

    Attributes:
        student: The network that is trained.
        student_spec: What the config says of it.
        teacher: None where there are no terms.
        terms: In the order of the config.
        changed: Tapped layers whose output the student changes in place afterwards.
    """

    student: Any
    student_spec: NetworkSpec
    teacher: Teacher | None
    terms: Sequence[Term]
    changed: set[str]


def assemble(student: Any, teacher: Any, distillation: Any, data_preprocessor: Any = None) -> Parts:
    """Build all parts; arguments as in `DistillationWrapper`.

    Raises:
        ConfigError, CheckpointError: What is wrong; `ManyErrors` where that is more than one.
    """
    problems = Problems()
    network: Any = None
    with problems:
        student_spec = parse_network(student, 'student')
        if data_preprocessor is not None:
            student_spec.model['data_preprocessor'] = data_preprocessor
        network = build_network(student_spec.model, 'student')
    # Nothing from here on may move the random state that then initialises the student: with
    # and without terms it starts from the same weights.
    with torch.random.fork_rng(devices=[]):
        specs = parse_terms(distillation, problems)
        built: Teacher | None = None
        with problems:
            if teacher is None and distillation:
                raise ConfigError('teacher: there are terms in distillation, but no teacher.')
            teacher_spec = None if teacher is None else parse_network(teacher, 'teacher')
            if teacher_spec is not None and distillation:
                built = Teacher(teacher_spec)
        terms: list[Term] = []
        changed: set[str] = set()
        if network is not None and built is not None:
            specs = _existing(specs, distillation, network, built.network, problems)
            terms, changed = _connect(specs, network, built, problems)
    problems.raise_if_any()
    return Parts(network, student_spec, built, terms, changed)


def _connect(
    specs: Sequence[TermSpec], student: Any, teacher: Teacher, problems: Problems
) -> tuple[list[Term], set[str]]:
    """The terms with their connectors, and the layers that the student changes in place.

    A dry run of each network tells the shapes; that of the teacher also which of its tensors
    are used, and so which of them the checkpoint must have.
    """
    student_probe: Probe | None = None
    teacher_probe: Probe | None = None
    with problems:
        student_probe = probe(student, layers_of(specs, 'student'), 'student')
    with problems:
        teacher_probe = probe(teacher.network, layers_of(specs, 'teacher'), 'teacher')
    with problems:
        teacher.load(teacher_probe.used if teacher_probe else ())
    if student_probe is None or teacher_probe is None:
        return [], set()
    teacher.prepare(teacher_probe.changed, student.data_preprocessor)
    terms = []
    for spec in specs:
        with problems:
            terms.append(_make_term(spec, student, teacher.network, student_probe, teacher_probe))
    return terms, student_probe.changed


def _existing(
    specs: Sequence[TermSpec],
    cfgs: Any,
    student: nn.Module,
    teacher: nn.Module,
    problems: Problems,
) -> list[TermSpec]:
    """The terms whose layers exist on both sides; layers that do not are problems.

    The layers are looked up as `cfgs` names them, so that those of a term with another fault
    are looked up too.
    """
    missing = set()
    for index, cfg in enumerate(cfgs if isinstance(cfgs, (list, tuple)) else ()):
        where = f'distillation[{index}]'
        for side, network in (('student', student), ('teacher', teacher)):
            layer = cfg.get(f'{side}_layer') if isinstance(cfg, Mapping) else None
            try:
                if isinstance(layer, str):
                    find_layer(network, layer, side)
            except LayerNotFoundError as error:
                problems.add(LayerNotFoundError(f'{where}.{side}_layer: {error}'))
                missing.add(where)
    return [spec for spec in specs if spec.where not in missing]


def _make_term(
    spec: TermSpec, student: Any, teacher: Any, student_probe: Probe, teacher_probe: Probe
) -> Term:
    for side, probed in (('student', student_probe), ('teacher', teacher_probe)):
        layer = getattr(spec, f'{side}_layer')
        if layer not in probed.outputs:
            raise ShapeError(
                f'{spec.where}.{side}_layer: {layer!r} does not run in a forward pass; '
                'tap a layer that does (tools/list_layers.py prints them).'
            )
    classes = None
    if _is_classifier(spec.student_layer) and _is_classifier(spec.teacher_layer):
        classes = (student.num_classes, teacher.num_classes)
    return make_term(
        spec,
        as_map(student_probe.outputs[spec.student_layer], PROBE_SIZE, spec.student_layer),
        as_map(teacher_probe.outputs[spec.teacher_layer], PROBE_SIZE, spec.teacher_layer),
        classes,
    )


def _is_classifier(layer: str) -> bool:
    """Whether a layer puts out class scores: a head as a whole, or its `conv_seg`."""
    path = layer.split('.')
    return path[0] in ('decode_head', 'auxiliary_head') and (
        path[-1] == 'conv_seg' or all(part.isdigit() for part in path[1:])
    )
