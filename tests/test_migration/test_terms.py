"""Entries of the old `distillation` as terms."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SHARED, needs_shared
from old_sections import notes, problems, section

from mmseg_kd.config.term_spec import TermSpec, parse_terms
from mmseg_kd.errors import Problems
from mmseg_kd.migration.layers import MIT, SEGFORMER_HEAD, SWIN
from mmseg_kd.migration.networks import Network
from mmseg_kd.migration.terms import convert_terms

PLAIN = Network({}, None, (), False)
NVIDIA = Network({}, None, (MIT, SEGFORMER_HEAD), True)
BILINEAR = {'mode': 'bilinear', 'align_corners': False}
LAYER = 'decode_head.conv_seg'


def entry(loss: str, config: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    made = dict(student_layer=LAYER, teacher_layer=LAYER, loss_name=loss)
    return {**made, 'loss_config': config or {}, **changes}


def convert(
    *entries: dict[str, Any],
    student: Network = PLAIN,
    teachers: tuple[Network, ...] = (PLAIN,),
) -> tuple[list[dict[str, Any]], list[str], list[str]]:
    """The terms, what is listed, and the notes; the terms can all be read."""
    model = section(dict(distillation=list(entries)), 'model')
    terms = convert_terms(model, student, teachers)
    parse(terms, len(teachers))
    return terms, problems(model), notes(model)


def parse(terms: list[dict[str, Any]], teachers: int = 1) -> list[TermSpec]:
    found = Problems()
    specs = parse_terms(terms, [f'teacher{i}' for i in range(teachers)], found).specs
    found.raise_if_any()
    assert len(specs) == len(terms)
    return specs


def loss_of(loss: str, config: dict[str, Any] | None = None) -> dict[str, Any]:
    """The one term of an entry that is wholly converted, without its layers."""
    terms, listed, told = convert(entry(loss, config))
    assert (listed, told) == ([], [])
    (term,) = terms
    assert (term.pop('student_layer'), term.pop('teacher_layer')) == (LAYER, LAYER)
    return term


WS = [
    dict(type='LinearWarmup', end=2000),
    dict(type='LinearDecay', begin=110000, end=120000),
]


@pytest.mark.parametrize(
    ('loss', 'config', 'term'),
    [
        ('PDLoss', {}, dict(loss=dict(type='KLLoss', tau=1), weight=1)),
        ('CDLoss', {}, dict(loss=dict(type='CDLoss', tau=1), weight=1)),
        ('CGDLoss', {}, dict(loss=dict(type='CGDLoss', group_size=10, tau=2), weight=3)),
        (
            'CGDLoss',
            dict(group_size=5, alpha=1, tau=4.0),
            dict(loss=dict(type='CGDLoss', group_size=5, tau=4.0), weight=1),
        ),
        (
            'CGDLossWS',
            {},
            dict(loss=dict(type='CGDLoss', group_size=10, tau=2), weight=3, schedule=WS),
        ),
        ('ATLoss', {}, dict(loss=dict(type='ATLoss'))),
        ('IFVDLoss', {}, dict(loss=dict(type='IFVDLoss'))),
        (
            'KLDLoss',
            dict(alpha=2, tau=4, transform_config=dict(loss_type='pixel')),
            dict(loss=dict(type='KLLoss', tau=4, resolution='student'), weight=2),
        ),
        (
            'KLDLoss',
            dict(resize_config=BILINEAR, transform_config=dict(loss_type='pixel')),
            dict(loss=dict(type='KLLoss', tau=1), weight=1),
        ),
        (
            'KLDLoss',
            dict(
                resize_config=None,
                shuffle_config=False,
                transform_config=dict(loss_type='channel', group_size=1),
            ),
            dict(loss=dict(type='CDLoss', tau=1, resolution='student'), weight=1),
        ),
        (
            'KLDLoss',
            dict(
                alpha=3,
                tau=2,
                resize_config=BILINEAR,
                transform_config=dict(loss_type='channel', group_size=4),
                warmup_config=dict(mode='jump', warmup_iters=7),
            ),
            dict(
                loss=dict(type='CGDLoss', group_size=4, tau=2),
                weight=3,
                schedule=[dict(type='Jump', begin=7)],
            ),
        ),
    ],
)
def test_losses(loss: str, config: dict[str, Any], term: dict[str, Any]) -> None:
    assert loss_of(loss, config) == term


def test_shuffled_groups() -> None:
    config = dict(
        shuffle_config=dict(interval=1000),
        transform_config=dict(loss_type='channel', group_size=10),
    )
    (term,), listed, told = convert(entry('KLDLoss', config))
    assert term['loss'] == dict(
        type='CGDLoss', group_size=10, tau=1, resolution='student', shuffle_interval=1000
    )
    assert listed == []
    assert 'now the order that is drawn there stays' in told[0]


@pytest.mark.parametrize(
    'transform', [dict(loss_type='pixel'), dict(loss_type='channel', group_size=1)]
)
def test_shuffling_that_changes_nothing_is_dropped(transform: dict[str, Any]) -> None:
    config = dict(shuffle_config=dict(interval=1000), transform_config=transform)
    (term,), listed, told = convert(entry('KLDLoss', config))
    assert set(term['loss']) == {'type', 'tau', 'resolution'}
    assert listed == []
    assert 'dropped: the order of the channels does not change' in told[0]


@pytest.mark.parametrize(
    ('config', 'listed'),
    [
        (
            dict(resize_config=dict(mode='bilinear', align_corners=True)),
            'resize_config.align_corners: maps are resized with align_corners=False now',
        ),
        (
            dict(resize_config=dict(mode='nearest')),
            'resize_config.mode: nearest: maps are resized by bilinear interpolation now',
        ),
        (dict(beta=2), 'beta: unknown key, left out'),
        (dict(alpha='3'), "alpha: expected a number, got '3'; 1 is taken"),
    ],
)
def test_the_rest_of_a_term_with_a_wrong_key(config: dict[str, Any], listed: str) -> None:
    (term,), found, _ = convert(entry('PDLoss', config))
    assert term['loss'] == dict(type='KLLoss', tau=1)
    assert found == [f'model.distillation[0].loss_config.{listed}']


@pytest.mark.parametrize(
    ('changes', 'listed'),
    [
        (
            dict(loss_name='CGDLos'),
            r"loss_name: there is no loss 'CGDLos' here (nearest: CGDLoss",
        ),
        (
            dict(loss_name='KLDLoss', loss_config=dict(alpha=2)),
            'loss_config: without transform_config the softmax went over',
        ),
        (
            dict(loss_name='KLDLoss', loss_config=dict(transform_config=dict(loss_type='row'))),
            "loss_config.transform_config.loss_type: expected 'pixel' or 'channel', got 'row'",
        ),
        (dict(student_layer=None), 'student_layer: expected the name of a layer, got None'),
        (dict(loss_config=[1]), 'loss_config: expected a dict, got [1]'),
    ],
)
def test_terms_that_are_left_out(changes: dict[str, Any], listed: str) -> None:
    terms, found, _ = convert(entry('PDLoss', **changes), entry('CDLoss'))
    assert terms[-1]['loss']['type'] == 'CDLoss'
    assert len(terms) == (2 if 'expected a dict' in listed else 1)
    assert len(found) == 1
    assert found[0].startswith(f'model.distillation[0].{listed}')


def test_layers_of_each_side() -> None:
    swin = Network({}, None, (SWIN,), False)
    one = entry('ATLoss', student_layer='backbone.layers.0.blocks.1.mlp')
    one['teacher_layer'] = 'backbone.block1.0.attn.attn_drop'
    (term,), listed, told = convert(one, student=swin, teachers=(NVIDIA,))
    assert term['student_layer'] == 'backbone.stages.0.blocks.1.ffn.layers'
    assert term['teacher_layer'] == 'backbone.layers.0.1.0.attn.attn.weights'
    assert listed == []
    (note,) = told
    assert note.startswith('model.distillation[0].teacher_layer: backbone.block1.0.attn.attn_drop')
    assert 'mean over the heads' in note


def test_a_layer_without_an_equal() -> None:
    terms, listed, _ = convert(
        entry('ATLoss', student_layer='backbone.block1.0.attn.kv'), student=NVIDIA
    )
    assert terms == []
    (line,) = listed
    assert line.startswith('model.distillation[0].student_layer: backbone.block1.0.attn.kv: keys')
    assert line.endswith('the term is left out')


def test_several_teachers() -> None:
    linear = 'decode_head.linear_pred'
    terms, listed, told = convert(
        entry('CGDLoss', teacher_idx=1, teacher_layer=linear),
        entry('CDLoss', teacher=0),
        entry('PDLoss', teacher_layer='decode_head.dropout'),
        teachers=(PLAIN, NVIDIA),
    )
    assert [(t['loss']['type'], t['teacher'], t['teacher_layer']) for t in terms] == [
        ('CGDLoss', 1, LAYER),
        ('CDLoss', 0, LAYER),
        ('KLLoss', 0, 'decode_head.dropout'),
        ('KLLoss', 1, 'decode_head.dropout'),
    ]
    assert listed == []
    assert told == ['model.distillation[2]: names no teacher: one term for each of the 2']


@pytest.mark.parametrize('teacher', [2, -1, 'b3', True])
def test_a_teacher_that_is_not_there(teacher: Any) -> None:
    terms, listed, _ = convert(entry('CDLoss', teacher_idx=teacher), teachers=(PLAIN, PLAIN))
    assert terms == []
    assert listed == [
        'model.distillation[0].teacher_idx: expected the number of a teacher, 0 to 1, got '
        f'{teacher!r}; the term is left out'
    ]


@needs_shared('vectors/segdistill.npz')
def test_published_losses() -> None:
    """Converted entries give what the old code gave for them."""
    arrays = np.load(SHARED / 'vectors/segdistill.npz')
    student, teacher = (torch.from_numpy(arrays[key]) for key in ('student', 'teacher'))
    label = torch.from_numpy(arrays['gt'])[:, 0].long()
    cases = json.loads((SHARED / 'vectors/segdistill.json').read_text())['cases']
    assert len(cases) > 15
    for case in cases:
        config = {key: case[key] for key in ('alpha', 'tau') if key in case}
        if case['name'] == 'CGDLoss':
            config['group_size'] = case['group_size']
        if 'transform' in case:
            group = {'group_size': case['group_size']} if 'group_size' in case else {}
            config['transform_config'] = {'loss_type': case['transform'], **group}
            config['resize_config'] = case['resize']
        (spec,) = parse(convert(entry(case['name'], config))[0])
        weight = spec.weight
        for schedule in spec.schedules:
            weight *= schedule(case['n_iter'])
        value = weight * spec.loss(student, teacher, label)
        assert float(value) == pytest.approx(case['loss'], rel=1e-9), case['name']
