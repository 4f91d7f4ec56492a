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
from mmseg_kd.migration.terms import asks_for_angles, convert_terms

PLAIN = Network({}, None, ())
NVIDIA = Network({}, None, (MIT, SEGFORMER_HEAD))
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


def counted(*schedules: dict[str, Any]) -> list[dict[str, Any]]:
    return [dict(type='CountedFromOne', schedule=one) for one in schedules]


WS = counted(
    dict(type='LinearWarmup', end=2000), dict(type='LinearDecay', begin=110000, end=120000)
)
PLAIN_GROUPS = dict(shuffle_config=None)
AS_A_WHOLE = 'model.distillation[0]: left out as a whole: not all of its loss could be converted'


@pytest.mark.parametrize(
    ('loss', 'config', 'term'),
    [
        ('PDLoss', {}, dict(loss=dict(type='KLLoss', tau=1), weight=1)),
        ('CDLoss', {}, dict(loss=dict(type='CDLoss', tau=1), weight=1)),
        ('CGDLoss', PLAIN_GROUPS, dict(loss=dict(type='CGDLoss', group_size=10, tau=2), weight=3)),
        (
            'CGDLoss',
            dict(group_size=5, alpha=1, tau=4.0, **PLAIN_GROUPS),
            dict(loss=dict(type='CGDLoss', group_size=5, tau=4.0), weight=1),
        ),
        (
            'CGDLossWS',
            PLAIN_GROUPS,
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
                schedule=counted(dict(type='Jump', begin=7)),
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


@pytest.mark.parametrize('loss', ['CGDLoss', 'CGDLossWS'])
def test_groups_are_shuffled_by_themselves(loss: str) -> None:
    (term,), listed, told = convert(entry(loss))
    assert term['loss'] == dict(type='CGDLoss', group_size=10, tau=2, shuffle_interval=1000)
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
        (dict(alpha='3'), "alpha: expected a number, got '3'"),
        (dict(mask_config=['Bg']), 'mask_config: nothing here does the same'),
        (
            dict(warmup_config=dict(mode='wavy', warmup_iters=3)),
            "warmup_config.mode: expected one of ('linear', 'exp', 'jump'), got 'wavy'",
        ),
    ],
)
def test_a_term_with_a_wrong_key_is_left_out(config: dict[str, Any], listed: str) -> None:
    terms, found, told = convert(entry('PDLoss', config))
    assert terms == []
    assert found == [f'model.distillation[0].loss_config.{listed}']
    assert AS_A_WHOLE in told


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
    terms, found, told = convert(entry('PDLoss', **changes), entry('CDLoss'))
    assert terms[-1]['loss']['type'] == 'CDLoss'
    assert len(terms) == 1
    assert len(found) == 1
    assert found[0].startswith(f'model.distillation[0].{listed}')
    assert found[0].endswith('the term is left out') or AS_A_WHOLE in told


def test_layers_of_each_side() -> None:
    swin = Network({}, None, (SWIN,))
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
    assert told[1:] == ['model.distillation[2]: names no teacher: one term for each of the 2']


def test_as_many_terms_as_teachers() -> None:
    layers = [LAYER, 'decode_head.dropout']
    terms, listed, told = convert(
        *(entry('CDLoss', teacher_layer=layer) for layer in layers), teachers=(PLAIN, PLAIN)
    )
    assert [(t['teacher'], t['teacher_layer']) for t in terms] == list(enumerate(layers))
    assert listed == []
    assert told[1].endswith(
        '[1]: names no teacher: with as many terms as teachers, it is for teacher 1'
    )
    terms, _, told = convert(entry('CDLoss'), teachers=(PLAIN, PLAIN))
    assert [t['teacher'] for t in terms] == [0, 1]


# The older spelling


def older(**changes: Any) -> dict[str, Any]:
    made = dict(
        weight=3,
        tau=2,
        reshape_config='logits',
        resize_config=BILINEAR,
        mask_config=False,
        transform_config=dict(loss_type='channel', group_size=10),
        ff_config=False,
    )
    return {**made, **changes}


def test_the_older_spelling() -> None:
    config = older(shift_config=True, warmup_config=2000, earlystop_config=140000)
    (term,), listed, told = convert(entry('KLDLoss', config))
    assert listed == []
    assert term['loss'] == dict(type='CGDLoss', group_size=10, tau=2)
    assert term['weight'] == 3
    (spec,) = parse([term])
    assert [spec.weight_at(n) for n in (0, 999, 1999, 139999, 144999, 149999)] == pytest.approx(
        [3 / 2000, 1.5, 3, 3, 1.5, 0]
    )
    assert [note.split(': ')[0].rpartition('.')[2] for note in told] == [
        'earlystop_config',
        'shift_config',
        'warmup_config',
    ]


def test_a_tuple_of_settings() -> None:
    config = (older(transform_config=dict(loss_type='channel', group_size=7)),)
    (term,), listed, told = convert(entry('KLDLoss', loss_config=config))
    assert (listed, told) == ([], [])
    assert term['loss'] == dict(type='CGDLoss', group_size=7, tau=2)
    assert term['weight'] == 3
    terms, listed, _ = convert(entry('KLDLoss', loss_config=(dict(alpha=2, beta=1),)))
    assert terms == []
    assert 'model.distillation[0].loss_config[0].beta: unknown key, left out' in listed


@pytest.mark.parametrize('shuffle', [True, 1, 1000])
def test_shuffling_in_the_older_spelling(shuffle: Any) -> None:
    (term,), listed, told = convert(entry('KLDLoss', older(shuffle_config=shuffle)))
    assert (listed, told) == ([], [])
    assert term['loss']['shuffle_interval'] == 1


def test_no_shuffling_in_the_older_spelling() -> None:
    (term,), listed, told = convert(entry('KLDLoss', older(shuffle_config=0)))
    assert (listed, told) == ([], [])
    assert 'shuffle_interval' not in term['loss']


def test_feature_losses_of_the_older_spelling() -> None:
    terms, listed, told = convert(
        entry('AT'), entry('IFVD', dict(weight=3)), entry('IFVD', dict(classes=19))
    )
    assert listed == []
    assert all('weight' not in one for one in terms)
    variation = dict(type='IFVDLoss', variation_weight=100, kl_weight=0, resolution='teacher')
    assert [one['loss'] for one in terms] == [
        dict(type='ATLoss', attention_weight=0.1, kl_weight=0, resolution='teacher'),
        dict(variation, num_classes=150),
        dict(variation, num_classes=19),
    ]
    assert 'model.distillation[1].loss_config.weight: dropped: it had no effect' in told
    assert told[0].startswith('model.distillation[0].loss_name: read as in its last version')


def test_the_older_attention_transfer() -> None:
    """A tenth of the squared difference of the means, at the teacher's size."""
    (spec,) = parse(convert(entry('AT'))[0])
    student, teacher = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 8, 8)
    ours = torch.nn.functional.interpolate(student, (8, 8), mode='bilinear').mean(1)
    expected = 0.1 * (ours - teacher.mean(1)).square().mean()
    label = torch.zeros(2, 8, 8, dtype=torch.long)
    torch.testing.assert_close(spec.loss(student, teacher, label), expected)


def test_the_older_class_variation() -> None:
    """A hundred times the squared difference, in which pixels without a class count as equal."""
    (spec,) = parse(convert(entry('IFVD'))[0])
    student, teacher = torch.randn(1, 3, 4, 4), torch.randn(1, 3, 4, 4)
    label = torch.tensor([0, 1, 255, 200]).repeat(1, 4, 1)
    similarities = []
    for x in (student, teacher):
        centre = x.clone()
        for column in (0, 1):
            centre[..., column] = x[..., column].mean(-1, keepdim=True)
        similarities.append(torch.nn.functional.cosine_similarity(x, centre))
    expected = 100 * (similarities[0] - similarities[1]).square().mean()
    torch.testing.assert_close(spec.loss(student, teacher, label), expected)


def test_losses_of_several_teachers() -> None:
    """They were off before one iteration and behind another, at once."""
    config = older(latestart_config=20, earlystop_config=120)
    turns = dict(config, rot_config=[1, 1000])
    terms, listed, _ = convert(
        entry('MTLoss', config), entry('MTLoss', turns), teachers=(PLAIN, PLAIN)
    )
    (term,) = terms
    assert term['teacher'] == 0
    assert term['loss'] == dict(type='CGDLoss', group_size=10, tau=2)
    (spec,) = parse(terms, 2)
    # The old counter is one ahead.
    assert [spec.weight_at(n) for n in (0, 18, 19, 119, 120)] == [0, 0, 3, 3, 0]
    (line,) = listed
    assert line.startswith('model.distillation[1].loss_config.rot_config: the teachers took turns')


@pytest.mark.parametrize(
    ('transform', 'kind'),
    [
        (dict(loss_type='spatial', kernel_size=1, stride=1), 'KLLoss'),
        (dict(loss_type='spatial', kernel_size=1, stride=1, padding=0), 'KLLoss'),
        (dict(loss_type='spatial', kernel_size=3, stride=1), None),
        (dict(loss_type='spatial', kernel_size=1, stride=2), None),
    ],
)
def test_patches_of_the_older_spelling(transform: dict[str, Any], kind: str | None) -> None:
    terms, listed, _ = convert(entry('KLDLoss', older(transform_config=transform)))
    assert [one['loss']['type'] for one in terms] == ([kind] if kind else [])
    assert bool(listed) == (kind is None)


@pytest.mark.parametrize(
    ('ff', 'connector'),
    [
        (dict(in_channels=32, out_channels=64, kernel_size=1), None),
        (dict(in_channels=32, out_channels=64), None),
        (dict(in_channels=64, out_channels=64), dict(type='ConvConnector', kernel_size=1)),
        (
            dict(in_channels=32, out_channels=64, kernel_size=3),
            dict(type='ConvConnector', kernel_size=3),
        ),
    ],
)
def test_a_convolution_of_the_older_spelling(ff: dict[str, Any], connector: Any) -> None:
    (term,), listed, told = convert(entry('KLDLoss', older(ff_config=ff)))
    assert listed == []
    assert term.get('connector') == connector
    assert 'it was in no optimiser' in told[0]


def test_two_layers() -> None:
    block = 'backbone.block4.1.attn'
    one = entry(
        'StudentRE',
        older(proj=f'{block}.proj'),
        student_layer=[f'{block}.ATTN', f'{block}.V'],
        teacher_layer=['backbone.block4.2.attn.ATTN', 'backbone.block4.2.attn.V'],
    )
    terms, (line,), _ = convert(one, student=NVIDIA, teachers=(NVIDIA,))
    assert terms == []
    assert line.startswith('model.distillation[0].student_layer: StudentRE is not here; see')
    assert 'AttentionValueLoss' in line
    block = 'backbone.layers.3.1.1.attn.attn'
    assert f'{[f"{block}.weights", f"{block}.value"]}' in line


def test_angles_in_the_logs() -> None:
    entries = [entry('CDLoss', log_grad=True), entry('PDLoss')]
    terms, listed, _ = convert(*entries)
    assert (len(terms), listed) == (2, [])
    assert asks_for_angles(section(dict(distillation=entries), 'model'))
    assert not asks_for_angles(section(dict(distillation=entries[::-1]), 'model'))
    assert not asks_for_angles(section(dict(distillation=[]), 'model'))


def test_classes_of_features() -> None:
    """They were counted up to the channels of the teacher's layer."""
    backbone = dict(type='ResNetV1c', depth=18, stem_channels=4, base_channels=4)
    backbone |= dict(norm_cfg=dict(type='SyncBN'), num_stages=2, strides=(1, 2), dilations=(1, 1))
    head = dict(type='FCNHead', in_channels=8, channels=4, in_index=1, num_classes=5, num_convs=1)
    model = dict(
        type='EncoderDecoder',
        backbone={**backbone, 'out_indices': (0, 1)},
        decode_head={**head, 'norm_cfg': dict(type='SyncBN')},
    )
    terms, listed, _ = convert(
        entry('IFVDLoss', teacher_layer='backbone.layer2'),
        entry('IFVDLoss'),
        teachers=(Network(model, None, ()),),
    )
    assert listed == []
    assert [one['loss'] for one in terms] == [
        dict(type='IFVDLoss', num_classes=8),
        dict(type='IFVDLoss'),
    ]


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
        if case['name'] in ('CGDLoss', 'CGDLossWS'):
            # They were shuffled in other iterations than these alone.
            config |= PLAIN_GROUPS
        if case['name'] == 'CGDLoss':
            config['group_size'] = case['group_size']
        if 'transform' in case:
            group = {'group_size': case['group_size']} if 'group_size' in case else {}
            config['transform_config'] = {'loss_type': case['transform'], **group}
            config['resize_config'] = case['resize']
        (spec,) = parse(convert(entry(case['name'], config))[0])
        value = spec.weight_at(case['n_iter'] - 1) * spec.loss(student, teacher, label)
        assert float(value) == pytest.approx(case['loss'], rel=1e-9), case['name']
