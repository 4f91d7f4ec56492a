"""Terms that the layers of two networks are good for, as a proposal to start from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from textwrap import fill
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor, nn

from mmseg_kd.config.input_scaling import InputScaling
from mmseg_kd.config.network_spec import (
    NetworkSpec,
    is_distillation,
    teacher_label,
    teachers_of,
    trained_network_of,
)
from mmseg_kd.config.text import write_value
from mmseg_kd.errors import ConfigError, ShapeError
from mmseg_kd.networks.build import build_segmentor, without_initialisation
from mmseg_kd.networks.layers import Pass, run_once
from mmseg_kd.networks.probe import PROBE_SIZE, probe
from mmseg_kd.networks.taps import find_tap
from mmseg_kd.networks.tokens import as_map

# From so many classes on the terms begin with the settings published for ADE20K's 150; with fewer,
# with those that were found on CamVid's 11.
MANY_CLASSES = 60
# With fewer than these there are no groups to compare.
FEW_CLASSES = 4

# Columns of the remarks.
WIDTH = 80


@dataclass(frozen=True)
class Proposal:
    """A term to begin with, or a remark.

    Attributes:
        why: What fits, and what it costs.
        term: One entry of `distillation`; None: nothing can be proposed.
        instead: Whether it is rather an alternative to the others, or something to try later.
    """

    why: str
    term: Mapping[str, Any] | None = None
    instead: bool = False


@dataclass(frozen=True)
class Level:
    """One of the maps that a backbone or a neck hands on, by the layer that puts it out."""

    layer: str
    channels: int
    stride: int


@dataclass(frozen=True)
class Network:
    """A network to pair layers of.

    Attributes:
        module: The network itself.
        seen: What a pass through it left.
    """

    module: Any
    seen: Pass

    def shape(self, layer: str) -> tuple[int, ...]:
        return tuple(self.seen.outputs[layer].shape)

    def stride(self, layer: str) -> int:
        return self.seen.image_size[0] // self.shape(layer)[-2]

    def levels(self, part: str) -> list[Level]:
        """What 'backbone' or 'neck' hands on, as far as a layer of it can be tapped."""
        found = [self._level(part, one) for one in self.seen.handed_on.get(part, ())]
        return [level for level in found if level is not None]

    def _level(self, part: str, handed_on: Tensor) -> Level | None:
        """The outermost layer whose output this is: as a map, for a transformer's are tokens."""
        same = []
        for name, output in self.seen.outputs.items():
            with suppress(ShapeError):
                one = (
                    as_map(output, self.seen.image_size, name) if output.ndim in (3, 4) else output
                )
                if name.startswith(f'{part}.') and torch.equal(one, handed_on):
                    same.append(name)
        if not same:
            return None
        stride = self.seen.image_size[0] // handed_on.shape[-2]
        return Level(min(same, key=lambda name: name.count('.')), handed_on.shape[1], stride)


def proposals_of(cfg: Config) -> dict[str, list[Proposal]]:
    """Terms for the student of a distillation, by the names of its teachers.

    Raises:
        ConfigError: The config is no distillation, or a network cannot be built.
    """
    names, teachers = teachers_of(cfg) if is_distillation(cfg) else ([], {})
    if not names:
        raise ConfigError('--pair: expected a distillation, with a teacher and a student.')
    student = _built(trained_network_of(cfg), 'student')
    found = {}
    for name in names:
        teacher = _built(teachers[name], teacher_label(name, len(names)))
        found[name] = propose(teacher, student, teachers[name].scaling == InputScaling())
    return found


def _built(spec: NetworkSpec, side: str) -> Any:
    return build_segmentor(without_initialisation(spec.model), side)


def propose(teacher: nn.Module, student: nn.Module, same_images: bool = True) -> list[Proposal]:
    """Terms from `teacher` to `student`, the class scores first.

    Layers through which the student learns nothing, such as frozen stages, are left out.

    Args:
        same_images: Whether both see the images at one size: attention is compared position by
            position.
    """
    theirs, ours = Network(teacher, run_once(teacher)), Network(student, run_once(student))
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


def _scores(teacher: Network, student: Network) -> list[Proposal]:
    layers = _classifier(teacher), _classifier(student)
    if None in layers:
        side = 'teacher' if layers[0] is None else 'student'
        return [Proposal(f'No layer of the {side} puts out a map of scores for each class.')]
    classes = teacher.module.num_classes
    if classes != student.module.num_classes:
        return [
            Proposal(
                f'Class scores cannot be compared: the teacher tells {classes} classes apart, the '
                f'student {student.module.num_classes}.'
            )
        ]
    pair = dict(student_layer=layers[1], teacher_layer=layers[0])
    strides = [n.stride(str(layer)) for n, layer in zip((teacher, student), layers, strict=True)]
    what = f'Scores of {classes} classes at stride {strides[0]} (teacher) and {strides[1]}'
    cd = dict(**pair, loss=dict(type='CDLoss', tau=4.0), weight=3.0)
    if classes < FEW_CLASSES:
        return [Proposal(f'{what}: where in the image each class lies.', cd)]
    if classes >= MANY_CLASSES:
        cgd = dict(**pair, loss=dict(type='CGDLoss', group_size=10, tau=2.0), weight=3.0)
        source = 'the settings published for 150 classes'
    else:
        cgd = dict(**pair, loss=dict(type='CGDLoss', group_size=2, tau=4.0), weight=6.0)
        source = 'with few classes small groups and a large weight served best (CamVid, 11)'
    return [
        Proposal(f'{what}; {source}.', cgd),
        Proposal('Instead: each class over the pixels of the image.', cd, instead=True),
        Proposal(
            'Instead: each pixel over the classes.',
            dict(**pair, loss=dict(type='KLLoss', tau=1.0), weight=1.0),
            instead=True,
        ),
    ]


def _classifier(network: Network) -> str | None:
    """The layer of the (last) decode head that gives a score for each class."""
    classes = network.module.num_classes
    found = [
        name
        for name, output in network.seen.outputs.items()
        if name.startswith('decode_head.') and output.ndim == 4 and output.shape[1] == classes
    ]
    named = [name for name in found if name.endswith('.conv_seg')]
    return [*found, *named][-1] if found else None


def _features(teacher: Network, student: Network, part: str) -> list[Proposal]:
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


def _attention(teacher: Network, student: Network) -> list[Proposal]:
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


def _blocks(network: Network, side: str) -> dict[tuple[int, ...], str]:
    """The last nn.MultiheadAttention of each pair of numbers of positions, in the net's order."""
    found: dict[tuple[int, ...], str] = {}
    for name in network.seen.outputs:
        block, _, part = name.rpartition('.')
        if part == 'weights' and f'{block}.value' in network.seen.outputs:
            with suppress(ConfigError):  # a student that drops attention weights
                find_tap(network.module, name, side)
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
            lines += fill(one.why, WIDTH, initial_indent=remark, subsequent_indent=remark).split(
                '\n'
            )
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
