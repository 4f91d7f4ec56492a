"""From a config's dicts to student, teachers and terms, with all that is wrong said at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.logging import print_log
from torch import nn

from mmseg_kd.config.distillation_spec import parse_distillation
from mmseg_kd.config.network_spec import NetworkSpec, teacher_label
from mmseg_kd.config.term_spec import (
    TermSpec,
    parse_layers,
    student_layers,
    teacher_layers,
)
from mmseg_kd.distillation.term import Term, make_term
from mmseg_kd.errors import ConfigError, Problems, ShapeError
from mmseg_kd.networks.build import build_segmentor
from mmseg_kd.networks.forward import PROBE_SIZE
from mmseg_kd.networks.probe import Probe, probe
from mmseg_kd.networks.taps import Taps, find_tap, is_classifier, no_gradient
from mmseg_kd.teacher.teacher import Teacher


@dataclass(frozen=True)
class Distillation:
    """What a distillation is made of.

    Attributes:
        student: The network that is trained.
        student_spec: What the config says of it.
        teachers: By name; none where there are no terms.
        terms: In the order of the config.
        modified_in_place: Tapped layers whose output the student changes in place afterwards.
    """

    student: Any
    student_spec: NetworkSpec
    teachers: Mapping[str, Teacher]
    terms: Sequence[Term]
    modified_in_place: set[str]


def assemble(
    student: Any, teacher: Any, distillation: Any, data_preprocessor: Any = None
) -> Distillation:
    """Build all parts; arguments as in `DistillationWrapper`.

    Raises:
        ConfigError, CheckpointError: What is wrong; `ManyErrors` where that is more than one.
    """
    problems = Problems()
    # Nothing but the student itself may move the random state that then initialises it: with
    # and without terms it starts from the same weights.
    with torch.random.fork_rng(devices=[]):
        spec = parse_distillation(student, teacher, distillation, data_preprocessor, problems)
    network: Any = None
    if spec.student is not None:
        with problems:
            network = build_segmentor(spec.student.model, 'student')
    with torch.random.fork_rng(devices=[]):
        names = spec.names
        teachers: dict[str, Teacher] = {}
        wanted = {
            name for _, layers in parse_layers(distillation, names) for name in layers.teachers
        }
        for name, one in spec.teachers.items() if distillation else ():
            label = teacher_label(name, len(names))
            if len(names) > 1 and name not in wanted:
                print_log(f'{label} is in no term and is left out.', logger='current')
                continue
            with problems:
                teachers[name] = Teacher(one, label)
        terms: list[Term] = []
        modified_in_place: set[str] = set()
        if network is not None and teachers:
            missing = _missing_layers(distillation, names, network, teachers, problems)
            whole = [one for one in spec.terms if one.where not in missing]
            terms, modified_in_place = _connect(whole, network, teachers, problems)
    problems.raise_if_any()
    assert spec.student is not None
    return Distillation(network, spec.student, teachers, terms, modified_in_place)


def _missing_layers(
    cfgs: Any,
    names: Sequence[str],
    student: nn.Module,
    teachers: Mapping[str, Teacher],
    problems: Problems,
) -> set[str]:
    """The places of terms with a layer that does not exist, each of which becomes a problem.

    The layers are looked up as `cfgs` names them, so that those of a term with another fault
    are looked up too.
    """
    missing = set()

    def look(network: nn.Module, side: str, layers: Sequence[str], where: str, key: str) -> None:
        for layer in layers:
            try:
                find_tap(network, layer, side)
            except ConfigError as error:
                problems.add(type(error)(f'{where}.{key}: {error}'))
                missing.add(where)

    seen = set()
    for where, layers in parse_layers(cfgs, names):
        if where not in seen:  # an entry over several teachers names the student's layers once
            look(student, 'student', layers.student, where, 'student_layer')
        seen.add(where)
        for name, theirs in layers.teachers.items():
            if name in teachers:
                teacher = teachers[name]
                look(teacher.network, teacher.label, theirs, where, 'teacher_layer')
    return missing


def _connect(
    specs: Sequence[TermSpec],
    student: Any,
    teachers: Mapping[str, Teacher],
    problems: Problems,
) -> tuple[list[Term], set[str]]:
    """The terms with their connectors, and the layers that the student changes in place.

    A dry run of each network tells the shapes; that of a teacher also which of its tensors
    are used, and so which of them the checkpoint must have.
    """
    student_probe: Probe | None = None
    with problems:
        student_probe = probe(student, student_layers(specs), 'student')
    probes: dict[str, Probe] = {}
    for name, teacher in teachers.items():
        layers = teacher_layers(specs, name)
        with problems:
            probes[name] = probe(teacher.network, layers, teacher.label)
        found = probes.get(name)
        with problems:
            teacher.load(found.used if found else ())
            if found is not None:
                teacher.prepare(
                    tuple(found.outputs), found.modified_in_place, student.data_preprocessor
                )
    if student_probe is None:
        return [], set()
    terms = []
    for spec in specs:
        if set(spec.layers.teachers) <= set(probes):
            with problems:
                terms.append(_make_term(spec, student, teachers, student_probe, probes))
    return terms, student_probe.modified_in_place


def _make_term(
    spec: TermSpec,
    student: Any,
    teachers: Mapping[str, Teacher],
    student_probe: Probe,
    probes: Mapping[str, Probe],
) -> Term:
    where = f'{spec.where}.student_layer'
    _check_that_layers_run(spec.layers.student, student_probe, where)
    for layer in spec.layers.student:
        if spec.weight > 0 and layer not in student_probe.learning:
            raise no_gradient(where, layer)
    classes = {}
    for name, layers in spec.layers.teachers.items():
        _check_that_layers_run(layers, probes[name], f'{spec.where}.teacher_layer')
        if spec.layers.is_list and teachers[name].spec.input_size is not None:
            raise ConfigError(
                f'{spec.where}: layers in a list are compared as they are, so the '
                f'{teachers[name].label} cannot have an input_size of its own.'
            )
        if is_classifier(spec.layers.student[0]) and is_classifier(layers[0]):
            classes[name] = (student.num_classes, teachers[name].network.num_classes)
    taps = {name: Taps(probes[name].outputs, PROBE_SIZE) for name in spec.layers.teachers}
    return make_term(spec, Taps(student_probe.outputs, PROBE_SIZE), taps, classes)


def _check_that_layers_run(layers: Sequence[str], probed: Probe, where: str) -> None:
    for layer in layers:
        if layer not in probed.outputs:
            raise ShapeError(
                f'{where}: {layer!r} does not run in a forward pass; '
                'tap a layer that does (mmseg-kd layers CONFIG prints them).'
            )
