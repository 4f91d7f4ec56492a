"""From a config's dicts to student, teachers and terms, with all that is wrong said at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from mmengine.logging import print_log
from torch import nn
from torch.utils._pytree import tree_leaves

from mmseg_kd.config.distillation_spec import DistillationSpec, parse_distillation
from mmseg_kd.config.input_scaling import InputScaling
from mmseg_kd.config.network_spec import NetworkSpec, teacher_label
from mmseg_kd.config.task_weight import TaskWeight, parse_task_weight
from mmseg_kd.config.term_spec import TermSpec, student_layers, teacher_layers
from mmseg_kd.distillation.class_map import Classes, ClassMap, class_names, read_class_map
from mmseg_kd.distillation.gradients import recomputing_layer
from mmseg_kd.distillation.task_loss import check_class_weights
from mmseg_kd.distillation.term import Term, make_term
from mmseg_kd.errors import ConfigError, Problems, ShapeError
from mmseg_kd.networks.build import build_segmentor, without_initialisation
from mmseg_kd.networks.elsewhere.features import FeatureNetwork
from mmseg_kd.networks.forward import as_network
from mmseg_kd.networks.probe import Probe, modified_by_dropout, probe
from mmseg_kd.networks.roles import Roles
from mmseg_kd.networks.tap_name import parse_tap_name
from mmseg_kd.networks.taps import ATTENTION_PARTS, find_tap, no_gradient
from mmseg_kd.teacher.averaged import Averaged
from mmseg_kd.teacher.build import build_teacher
from mmseg_kd.teacher.stored import StoredTeacher
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
        averaged: The networks of teachers that are averages of the student, by name.
        selves: Names of teachers that are the student itself.
        task: The weight of the student's own losses.
    """

    student: Any
    student_spec: NetworkSpec
    teachers: Mapping[str, Teacher | StoredTeacher]
    terms: Sequence[Term]
    modified_in_place: set[str]
    averaged: Mapping[str, Averaged]
    selves: Sequence[str]
    task: TaskWeight


def assemble(
    student: Any,
    teacher: Any,
    distillation: Any,
    data_preprocessor: Any = None,
    task_weight: Any = 1.0,
    task_schedule: Any = None,
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
        task = parse_task_weight(task_weight, task_schedule, problems)
    network: Any = None
    if spec.student is not None:
        with problems:
            network = build_segmentor(spec.student.model, 'student')
        if network is not None:
            with problems:
                check_class_weights(network, 'student')
    with torch.random.fork_rng(devices=[]):
        names = spec.names
        networks: dict[str, nn.Module] = {}
        averaged: dict[str, Averaged] = {}
        wanted = {name for _, layers in spec.layers for name in layers.teachers}
        if network is not None:
            auto = [term for term in spec.terms if term.is_auto]
            _check_auto_weights(auto, network, problems)
            for term in auto if task.weight == 0 else ():
                problems.add(
                    f'{term.where}.weight: with task_weight=0 nothing sets the weight; '
                    'expected a number.'
                )
        for name, one in spec.teachers.items() if distillation else ():
            label = teacher_label(name, len(names))
            if len(names) > 1 and name not in wanted:
                print_log(f'{label} is in no term and is left out.', logger='current')
                continue
            with problems:
                if one.kind == 'frozen':
                    # Without a checkpoint it is one that comes with its weights.
                    is_filled = one.checkpoint is not None
                    model = without_initialisation(one.model) if is_filled else one.model
                    networks[name] = build_segmentor(model, label, or_features=True)
                elif network is not None and one.kind == 'EMATeacher':
                    averaged[name] = Averaged(network, one.momentum)
                    networks[name] = averaged[name].network
                elif network is not None:
                    networks[name] = network
        teachers: dict[str, Teacher | StoredTeacher] = {}
        terms: list[Term] = []
        modified_in_place: set[str] = set()
        if network is not None and networks:
            found = _found_terms(spec, network, networks, problems)
            teachers, terms, modified_in_place = _connect(spec, found, network, networks, problems)
    problems.raise_if_any()
    assert spec.student is not None
    selves = [name for name in networks if spec.teachers[name].kind == 'SelfTeacher']
    return Distillation(
        network, spec.student, teachers, terms, modified_in_place, averaged, selves, task
    )


def _check_auto_weights(terms: Sequence[TermSpec], student: nn.Module, problems: Problems) -> None:
    """See that gradients can be measured where terms whose weights set themselves tap `student`."""
    recomputing = recomputing_layer(student) if terms else None
    if recomputing is not None:
        problems.add(
            f'{terms[0].where}.weight: a weight cannot set itself where layers recompute their '
            f'activations, as {recomputing!r} of the student does; set with_cp=False or give '
            'the weight as a number.'
        )
    modules = dict(student.named_modules())
    for term in terms:
        for layer in term.layers.student:
            tap = parse_tap_name(layer)
            parent, _, part = tap.layer.rpartition('.')
            is_attention = isinstance(modules.get(parent), nn.MultiheadAttention)
            if (part in ATTENTION_PARTS and is_attention) or tap.function is not None:
                problems.add(
                    f"{term.where}.weight: {layer!r} is read beside the student's way to its "
                    'scores, so that nothing sets the weight; expected a number.'
                )


def _found_terms(
    spec: DistillationSpec,
    student: nn.Module,
    teachers: Mapping[str, nn.Module],
    problems: Problems,
) -> list[TermSpec]:
    """The terms whose layers are all there, with layers in the place of the roles that name them.

    A layer that is not there becomes a problem, in terms too in which something else is wrong.
    """
    ours = Roles(student)
    theirs = {name: Roles(network) for name, network in teachers.items()}
    missing = set()
    said = set()

    def find(
        roles: Roles, names: Sequence[str], side: str, where: str, key: str
    ) -> tuple[str, ...]:
        layers = []
        for name in names:
            try:
                layer = roles.layer(name, side)
                find_tap(roles.network, layer, side)
                layers.append(layer)
            except ConfigError as error:
                missing.add(where)
                text = f'{where}.{key}: {error}'
                if text not in said:  # an entry over several teachers names layers for each
                    problems.add(type(error)(text))
                said.add(text)
        return tuple(layers)

    found = {}
    for where, layers in spec.layers:
        names = find(ours, layers.student, 'student', where, 'student_layer')
        of_teachers = dict(layers.teachers)
        for name in [one for one in of_teachers if one in theirs]:
            label = teacher_label(name, len(spec.names))
            of_teachers[name] = find(theirs[name], of_teachers[name], label, where, 'teacher_layer')
        found[where, tuple(of_teachers)] = replace(layers, student=names, teachers=of_teachers)
    return [
        replace(term, layers=found[term.where, tuple(term.layers.teachers)])
        for term in spec.terms
        if term.where not in missing
    ]


def _connect(
    spec: DistillationSpec,
    terms: Sequence[TermSpec],
    student: nn.Module,
    networks: Mapping[str, nn.Module],
    problems: Problems,
) -> tuple[dict[str, Teacher | StoredTeacher], list[Term], set[str]]:
    """The teachers, the terms with their connectors, and what the student changes in place.

    A dry run of each network tells the shapes; that of a teacher also which of its tensors
    are used, and so which of them the checkpoint must have.
    """
    ours: Probe | None = None
    selves = [name for name in networks if spec.teachers[name].kind == 'SelfTeacher']
    tapped = [*student_layers(terms)]
    tapped += [layer for name in selves for layer in teacher_layers(terms, name)]
    with problems:
        ours = probe(student, tapped, 'student')
    preprocessing = as_network(student).preprocessing
    teachers: dict[str, Teacher | StoredTeacher] = {}
    theirs: dict[str, Probe] = {}
    for name, network in networks.items():
        if name in selves:
            theirs |= {} if ours is None else {name: ours}
            continue
        layers, label = teacher_layers(terms, name), teacher_label(name, len(spec.names))
        teacher, found = build_teacher(
            network, spec.teachers[name], layers, preprocessing, label, problems
        )
        if teacher is not None:
            teachers[name] = teacher
        if found is not None:
            theirs[name] = found
    if ours is None:
        return teachers, [], set()
    maps: dict[str, ClassMap] = {}
    for name in [name for name in theirs if spec.teachers[name].class_map is not None]:
        # A term over a teacher whose map is wrong has nothing to say of its own.
        found = theirs.pop(name)
        with problems:
            maps[name] = _class_map(spec, student, networks[name], name)
            theirs[name] = found
    made = []
    for term in terms:
        if set(term.layers.teachers) <= set(theirs):
            with problems:
                made.append(_make_term(term, spec, networks, ours, theirs, maps))
    in_training = modified_by_dropout(student, tapped, ours.images_NCHW)
    return teachers, made, ours.modified_in_place | in_training


def _class_map(
    spec: DistillationSpec, student: nn.Module, network: nn.Module, name: str
) -> ClassMap:
    """The class map of a teacher."""
    one, label = spec.teachers[name], teacher_label(name, len(spec.names))
    assert spec.student is not None
    assert one.class_map is not None
    names = {'student': class_names(student, spec.student.classes, None), label: None}
    if any(isinstance(given, str) for given in tree_leaves(list(one.class_map.values()))):
        names[label] = class_names(network, one.classes, one.checkpoint)
    classes = []
    for side, module in (('student', student), (label, network)):
        count = as_network(module).num_classes
        given = names[side]
        if count is None or (given is not None and len(given) != count):
            what = 'does not say how many' if count is None else f'tells {count}'
            got = 'no names' if given is None else f'{len(given)} names'
            raise ConfigError(f'{side}.classes: got {got}, and the network {what} classes apart.')
        classes.append(Classes(side, count, given))
    return read_class_map(one.class_map, f'{label}.class_map', *classes)


def _make_term(
    term: TermSpec,
    spec: DistillationSpec,
    networks: Mapping[str, nn.Module],
    ours: Probe,
    theirs: Mapping[str, Probe],
    maps: Mapping[str, ClassMap],
) -> Term:
    """A term of what dry runs of the student and the teachers found."""
    where = f'{term.where}.student_layer'
    _check_that_layers_run(term.layers.student, ours, where)
    for layer in term.layers.student:
        if term.weight > 0 and layer not in ours.learning:
            raise no_gradient(where, layer)
    classes = {}
    for name, layers in term.layers.teachers.items():
        _check_that_layers_run(layers, theirs[name], f'{term.where}.teacher_layer')
        if term.layers.is_list and spec.teachers[name].scaling != InputScaling():
            raise ConfigError(
                f'{term.where}: layers in a list are compared as they are, so the '
                f'{teacher_label(name, len(spec.names))} cannot have an input_size of its own.'
            )
        one, other = (
            side.scored_classes.get(layer)
            for side, layer in ((ours, term.layers.student[0]), (theirs[name], layers[0]))
        )
        if one is not None and other is not None:
            classes[name] = (one, other)
        of_scores = one is not None or getattr(term.loss, 'is_of_scores', False)
        if of_scores and isinstance(networks[name], FeatureNetwork):
            kind = type(term.loss).__name__
            raise ShapeError(
                f'{term.where}: the {teacher_label(name, len(spec.names))} gives features and no '
                f'class scores, which {kind} of {term.layers.student[0]!r} would compare; pair '
                "features of the student with a loss for them: dict(type='CDLoss', "
                "resolution='student')."
            )
    # A connector of the config's own brings scores together in another way.
    mapped = {
        name: maps[name]
        for name in (classes if term.connector in ('auto', None) else ())
        if name in maps and maps[name].fits(*classes[name])
    }
    if mapped and len({maps[n].classes if n in mapped else None for n in term.layers.teachers}) > 1:
        raise ConfigError(
            f"{term.where}: reduction='mean' needs a class_map over the same classes of the "
            'student for each teacher, or for none.'
        )
    differing = {name: counts for name, counts in classes.items() if name not in mapped}
    taps = {name: theirs[name].taps for name in term.layers.teachers}
    made = make_term(term, ours.taps, taps, differing, mapped)
    needs_mask = getattr(term.loss, 'takes_labelled_pixels_alone', False)
    made.compares_scores = bool(classes) and not needs_mask
    return made


def _check_that_layers_run(layers: Sequence[str], probed: Probe, where: str) -> None:
    for layer in layers:
        if layer not in probed.outputs:
            raise ShapeError(
                f'{where}: {layer!r} does not run in a forward pass: it is '
                'not used, or in training alone, as auxiliary branches inside a network are; tap a '
                'layer that does (mmseg-kd layers CONFIG prints them).'
            )
