"""Terms that the layers of two networks are good for, as a proposal to start from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

from mmengine.config import Config
from torch import nn

from mmseg_kd.config.input_scaling import InputScaling
from mmseg_kd.config.network_spec import (
    NetworkSpec,
    is_distillation,
    teacher_label,
    teachers_of,
    trained_network_of,
)
from mmseg_kd.config.recipes import recipe_of
from mmseg_kd.config.text import write_value
from mmseg_kd.errors import ConfigError
from mmseg_kd.networks.build import build_segmentor, without_initialisation
from mmseg_kd.networks.probe import PROBE_SIZE, probe
from mmseg_kd.networks.roles import Level, Roles
from mmseg_kd.networks.taps import find_tap

# From so many classes on the terms begin with the settings published for ADE20K's 150; with fewer,
# with those that gained over three seeds on CamVid's 11 and the toy scenes' 12.
MANY_CLASSES = 60
# With fewer than these there are no groups to compare.
FEW_CLASSES = 4

# Columns of the remarks.
WIDTH = 80


@dataclass(frozen=True)
class Proposal:
    """A term to begin with, or a remark.

    Attributes:
        why: What fits, and what it costs, or where it is from.
        term: One entry of `distillation`; None: nothing can be proposed.
        instead: Whether it is rather an alternative to the others, or something to try later.
    """

    why: str
    term: Mapping[str, Any] | None = None
    instead: bool = False


def proposals_of(cfg: Config, recipe: str | None = None) -> dict[str, list[Proposal]]:
    """Terms for the student of a distillation, by the names of its teachers.

    Args:
        cfg: The config.
        recipe: One of `RECIPES`, for its terms; None: those that fit.

    Raises:
        ConfigError: The config is no distillation, a network cannot be built, there is no such
            recipe, or one of its layers.
    """
    names, teachers = teachers_of(cfg) if is_distillation(cfg) else ([], {})
    if not names:
        raise ConfigError('--pair: expected a distillation, with a teacher and a student.')
    student = _built(trained_network_of(cfg), 'student')
    found = {}
    for name in names:
        label = teacher_label(name, len(names))
        teacher = _built(teachers[name], label)
        if recipe is None:
            found[name] = propose(teacher, student, teachers[name].scaling == InputScaling())
        else:
            found[name] = _of_recipe(recipe, Roles(teacher), Roles(student), label)
    return found


def _of_recipe(recipe: str, teacher: Roles, student: Roles, label: str) -> list[Proposal]:
    """The terms of a recipe with the layers of two networks."""
    chosen = recipe_of(recipe, '--recipe')
    terms = [
        {
            **term,
            'student_layer': student.layer(term['student_layer'], 'student'),
            'teacher_layer': teacher.layer(term['teacher_layer'], label),
        }
        for term in chosen.terms
    ]
    return [Proposal(chosen.source, terms[0]), *(Proposal('', term) for term in terms[1:])]


def _built(spec: NetworkSpec, side: str) -> Any:
    return build_segmentor(without_initialisation(spec.model), side)


def propose(teacher: nn.Module, student: nn.Module, same_images: bool = True) -> list[Proposal]:
    """Terms from `teacher` to `student`, the class scores first.

    Layers through which the student learns nothing, such as frozen stages, are left out.

    Args:
        same_images: Whether both see the images at one size: attention is compared position by
            position.
    """
    theirs, ours = Roles(teacher), Roles(student)
    found = _scores(theirs, ours)
    for part in ('backbone', 'neck'):
        found += _features(theirs, ours, part)
    if same_images:
        found += _attention(theirs, ours)
    layers = {name for one in found if one.term for name in _names(one.term['student_layer'])}
    learning = probe(student, layers, 'student').learning
    return [p for p in found if not p.term or set(_names(p.term['student_layer'])) <= learning]


def _names(layer: str | Sequence[str]) -> Sequence[str]:
    return [layer] if isinstance(layer, str) else layer


def _scores(teacher: Roles, student: Roles) -> list[Proposal]:
    layers = teacher.scores(), student.scores()
    if None in layers:
        side = 'teacher' if layers[0] is None else 'student'
        return [Proposal(f'No layer of the {side} puts out a map of scores for each class.')]
    classes = teacher.network.num_classes
    if classes != student.network.num_classes:
        return [
            Proposal(
                f'Class scores cannot be compared: the teacher tells {classes} classes apart, the '
                f'student {student.network.num_classes}.'
            )
        ]
    pair = dict(student_layer=layers[1], teacher_layer=layers[0])
    strides = [n.stride(str(layer)) for n, layer in zip((teacher, student), layers, strict=True)]
    what = f'Scores of {classes} classes at stride {strides[0]} (teacher) and {strides[1]}'
    cwd = dict(**pair, loss=dict(type='CWD', tau=4.0, resolution='student'), weight=3.0)
    kl = dict(**pair, loss=dict(type='KLLoss', tau=1.0), weight=1.0)
    channels = 'each class over the pixels of the image'
    pixels = Proposal('Instead: each pixel over the classes.', kl, instead=True)
    if classes >= MANY_CLASSES:
        cgd = dict(**pair, loss=dict(type='CGDLoss', group_size=10, tau=2.0), weight=3.0)
        return [
            Proposal(f'{what}; the settings published for 150 classes.', cgd),
            Proposal(f'Instead: {channels}.', cwd, instead=True),
            pixels,
        ]
    why = f'{what}: {channels}, which gained over three seeds with 11 and 12 classes.'
    first = Proposal(why, cwd)
    if classes < FEW_CLASSES:
        return [first, pixels]
    cgd = dict(**pair, loss=dict(type='CGDLoss', group_size=2, tau=4.0), weight=6.0)
    return [first, Proposal('Instead: small groups of classes.', cgd, instead=True), pixels]


def _features(teacher: Roles, student: Roles, part: str) -> list[Proposal]:
    """Maps of a part, the deepest pair to begin with."""
    pairs = pair_levels(teacher.levels(part), student.levels(part))
    found = []
    for index, (theirs, ours) in enumerate(pairs, 1):
        strides = f'stride {theirs.stride} on both sides'
        if theirs.stride != ours.stride:
            strides = f'stride {theirs.stride} (teacher) and {ours.stride}, which the loss aligns'
        channels = f'{theirs.channels} channels on both sides: no connector'
        if theirs.channels != ours.channels:
            channels = (
                f'a 1x1 convolution from {ours.channels} to {theirs.channels} channels is trained'
            )
        what = 'Stage' if part == 'backbone' else 'Output of the neck'
        term = dict(
            student_layer=ours.layer,
            teacher_layer=theirs.layer,
            loss=dict(type='CDLoss', tau=4.0, resolution='student'),
            weight=1.0,
            name=f'{"stage" if part == "backbone" else part}{index}',
        )
        why = f'{what} {index} of {len(pairs)}: {strides}; {channels}.'
        found.append(Proposal(why, term, instead=index < len(pairs)))
    return found


def pair_levels(teacher: Sequence[Level], student: Sequence[Level]) -> list[tuple[Level, Level]]:
    """The levels of two networks that go together, the teacher's first.

    Those of equal stride; where a dilated network has several of one stride, in their order if
    both have as many levels, and else the deepest of each stride.
    """
    by_stride = [{level.stride: level for level in levels} for levels in (teacher, student)]
    is_dilated = len(by_stride[0]) < len(teacher) or len(by_stride[1]) < len(student)
    if is_dilated and len(teacher) == len(student):
        return list(zip(teacher, student, strict=True))
    theirs, ours = by_stride
    return [(theirs[stride], ours[stride]) for stride in sorted(theirs.keys() & ours.keys())]


def _attention(teacher: Roles, student: Roles) -> list[Proposal]:
    """Blocks whose attention sees as many positions on both sides, the deepest to begin with."""
    theirs, ours = _blocks(teacher, 'teacher'), _blocks(student, 'student')
    shared = [shape for shape in ours if shape in theirs]
    found = []
    for index, shape in enumerate(shared, 1):
        block, other = ours[shape], theirs[shape]
        term = dict(
            student_layer=[f'{block}.weights', f'{block}.value'],
            teacher_layer=[f'{other}.weights', f'{other}.value'],
            loss=dict(type='AttentionValueLoss'),
            weight=1.0,
            name=f'attention{index}',
        )
        why = (
            f'Attention of {shape[0]} to {shape[1]} positions: the last such block of each side; '
            'channels and heads may differ.'
        )
        found.append(Proposal(why, term, instead=index < len(shared)))
    return found


def _blocks(network: Roles, side: str) -> dict[tuple[int, ...], str]:
    """The last nn.MultiheadAttention of each pair of numbers of positions, in the net's order."""
    found: dict[tuple[int, ...], str] = {}
    for name in network.seen.outputs:
        block, _, part = name.rpartition('.')
        if part == 'weights' and f'{block}.value' in network.seen.outputs:
            with suppress(ConfigError):  # a student that drops attention weights
                find_tap(network.network, name, side)
                found[network.shape(name)[-2:]] = block
    return found


def proposals_text(config: str, proposals: Mapping[str, Sequence[Proposal]]) -> str:
    """Proposals as the text of a config, under remarks that say what they are.

    Args:
        config: What they are for.
        proposals: By the names of the teachers.
    """
    size = 'x'.join(map(str, PROBE_SIZE))
    return (
        f'# Terms for {config}.\n'
        f'# From what its layers put out for an image of {size}. The weights are to begin\n'
        '# with; terms that are commented out may be added, or take the place of others.\n'
        f'{as_text(proposals)}'
    )


def as_text(proposals: Mapping[str, Sequence[Proposal]]) -> str:
    """Proposals by the teachers' names as a config; alternatives are commented out.

    With several teachers each term says which is its own.
    """
    lines = ['model = dict(', '    distillation=[']
    for name, found in proposals.items():
        for one in found:
            remark = ' ' * 8 + '# '
            lines += wrap(one.why, WIDTH, initial_indent=remark, subsequent_indent=remark)
            if one.term is not None:
                term = dict(one.term)
                if len(proposals) > 1:
                    term['teacher'] = name
                    if 'name' in term:
                        term['name'] += f'_{name}'
                text = write_value(term, 8) + ','
                mark = '# ' if one.instead else ''
                lines += [f'        {mark}{line}' for line in _dedented(text)]
    return '\n'.join([*lines, '    ]', ')', ''])


def _dedented(text: str) -> list[str]:
    """The lines of a value that `write_value` indented by 8."""
    first, *rest = text.split('\n')
    return [first, *(line[8:] for line in rest)]
