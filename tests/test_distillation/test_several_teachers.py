from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from builders import (
    SIZE,
    batch,
    build,
    counted,
    fpn,
    mit,
    resnet,
    save_weights,
    sgd,
    term,
    train,
)
from torch import Tensor

from mmseg_kd.errors import ConfigError, LayerNotFoundError, ManyErrors, ShapeError
from mmseg_kd.schedules import RandomTurn

Make = Callable[..., Any]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Build a wrapper of a small ResNet and two larger teachers, 'wide' and 'deep'."""

    def build_wrapper(*terms: dict[str, Any], teacher: Any = None, seed: int = 0) -> Any:
        if teacher is None:
            teacher = [
                {**network, 'name': name, 'checkpoint': save_weights(network, path, seed=index)}
                for index, (name, network) in enumerate(
                    {'wide': resnet(8), 'deep': fpn(8, 4)}.items()
                )
                for path in [tmp_path / f'{name}.pth']
            ]
        return build(
            dict(
                type='DistillationWrapper',
                student=resnet(4, dropout=0),
                teacher=teacher,
                distillation=list(terms),
            ),
            seed,
        )

    return build_wrapper


def log_of(wrapper: Any) -> dict[str, float]:
    """The log of one training step."""
    torch.manual_seed(3)
    wrapper.train()
    return {k: v.item() for k, v in wrapper.train_step(batch(), sgd(wrapper)).items()}


def scores(wrapper: Any) -> dict[str, Tensor]:
    """Class scores at the size of the labels in that step, of the student and the teachers."""
    torch.manual_seed(3)
    wrapper.train()
    images = wrapper.data_preprocessor(batch(), training=True)['inputs']
    with torch.no_grad():
        return {
            name: F.interpolate(network(images), SIZE, mode='bilinear')
            for name, network in {'student': wrapper.student, **wrapper.teachers}.items()
        }


def pixel_kl(student: Tensor, teacher: Tensor) -> float:
    """KL(teacher || student) between probabilities over dimension 1, mean over pixels."""
    return float((teacher * (teacher.log() - student.log())).sum(1).mean())


def test_each_term_has_its_teacher(make: Make) -> None:
    wrapper = make(term(teacher='deep', name='a'), term(teacher=0, name='b'))
    probabilities = {k: v.softmax(1) for k, v in scores(wrapper).items()}
    log = log_of(wrapper)
    student = probabilities['student']
    assert log['kd.a'] == pytest.approx(pixel_kl(student, probabilities['deep']), rel=1e-5)
    assert log['kd.b'] == pytest.approx(pixel_kl(student, probabilities['wide']), rel=1e-5)
    assert list(wrapper.teachers) == ['wide', 'deep']


def test_default_names(make: Make, tmp_path: Path) -> None:
    teachers = [{**resnet(8), 'checkpoint': save_weights(resnet(8), tmp_path / 'teacher.pth')}] * 2
    wrapper = make(term(teacher=1), term(teacher=[0, 1]), teacher=teachers)
    assert list(wrapper.teachers) == ['teacher0', 'teacher1']
    assert list(wrapper.terms) == ['kl_teacher1', 'kl_teacher0', 'kl_teacher1_2']


def test_sum_of_teachers_each_with_its_weight(make: Make) -> None:
    wrapper = make(
        term(teacher=['wide', 'deep'], teacher_weights=[1.0, 0.25], weight=2.0, name='kl')
    )
    probabilities = {k: v.softmax(1) for k, v in scores(wrapper).items()}
    log = log_of(wrapper)
    student = probabilities['student']
    wide, deep = (pixel_kl(student, probabilities[name]) for name in ('wide', 'deep'))
    assert log['kd.kl_wide'] == pytest.approx(2 * wide, rel=1e-5)
    assert log['kd.kl_deep'] == pytest.approx(0.5 * deep, rel=1e-5)
    assert log['kd_weight.kl_wide'] == 2.0
    assert log['kd_weight.kl_deep'] == 0.5


@pytest.mark.parametrize('tau', [1.0, 3.0])
def test_mean_of_the_softened_outputs(make: Make, tau: float) -> None:
    wrapper = make(
        term(teacher=['wide', 'deep'], reduction='mean', loss=dict(type='KLLoss', tau=tau))
    )
    probabilities = {k: (v / tau).softmax(1) for k, v in scores(wrapper).items()}
    mean = (probabilities['wide'] + probabilities['deep']) / 2
    log = log_of(wrapper)
    assert log['kd.kl_wide_deep'] == pytest.approx(
        pixel_kl(probabilities['student'], mean), rel=1e-5
    )


@pytest.mark.parametrize('loss', [dict(type='CDLoss'), dict(type='CGDLoss', group_size=5)])
def test_mean_over_other_softmaxes(make: Make, loss: dict[str, Any]) -> None:
    wrapper = make(
        term(teacher=['wide', 'deep'], reduction='mean', loss=loss, name='kd'),
    )
    # Five classes in one group; with CD each is a group.
    axes = (2, 3) if loss['type'] == 'CDLoss' else (1, 2, 3)
    found = scores(wrapper)
    flat = {k: v.flatten(axes[0]).double().softmax(-1) for k, v in found.items()}
    mean = (flat['wide'] + flat['deep']) / 2
    expected = (mean * (mean.log() - flat['student'].log())).sum(-1).mean()
    assert log_of(wrapper)['kd.kd'] == pytest.approx(float(expected), rel=1e-4)


def test_one_teacher_drawn_in_each_iteration(
    make: Make, at_iteration: Callable[[int], None]
) -> None:
    wrapper = make(term(teacher=['wide', 'deep'], reduction='random', name='kl'))
    draws = []
    for iteration in range(12):
        at_iteration(iteration)
        with (
            counted(wrapper.teachers['wide'], 'backbone') as wide,
            counted(wrapper.teachers['deep'], 'backbone') as deep,
        ):
            log = log_of(wrapper)
        drawn = 'wide' if RandomTurn(0, 2)(iteration) else 'deep'
        other = {'wide': 'deep', 'deep': 'wide'}[drawn]
        # Only the teacher that is needed runs.
        assert {'wide': wide['backbone'], 'deep': deep['backbone']} == {drawn: 1, other: 0}
        assert log[f'kd.kl_{drawn}'] > 0
        assert log[f'kd.kl_{other}'] == log[f'kd_weight.kl_{other}'] == 0
        draws.append(drawn)
    assert set(draws) == {'wide', 'deep'}


def test_draws_go_with_a_schedule(make: Make, at_iteration: Callable[[int], None]) -> None:
    wrapper = make(
        term(
            teacher=['wide', 'deep'],
            reduction='random',
            name='kl',
            schedule=dict(type='LinearWarmup', end=10),
        )
    )
    at_iteration(5)
    weights = {k: v for k, v in log_of(wrapper).items() if k.startswith('kd_weight')}
    assert sorted(weights.values()) == [0.0, 0.5]


def test_a_teacher_whose_terms_are_off_does_not_run(
    make: Make, at_iteration: Callable[[int], None]
) -> None:
    wrapper = make(
        term(teacher='wide'), term(teacher='deep', schedule=[dict(type='Jump', begin=5)])
    )
    with counted(wrapper.teachers['deep'], 'backbone') as counts:
        at_iteration(0)
        log_of(wrapper)
        assert counts['backbone'] == 0
        at_iteration(5)
        log_of(wrapper)
        assert counts['backbone'] == 1


def test_layers_of_each_teacher(make: Make) -> None:
    wrapper = make(
        term(
            'backbone.layer2',
            dict(wide='backbone.layer2', deep='neck.fpn_convs.0.conv'),
            loss=dict(type='CDLoss', resolution='teacher'),
            teacher=['wide', 'deep'],
            name='cd',
        )
    )
    assert {name: t.layers.teachers for name, t in wrapper.terms.items()} == {
        'cd_wide': {'wide': ('backbone.layer2',)},
        'cd_deep': {'deep': ('neck.fpn_convs.0.conv',)},
    }
    assert wrapper.terms['cd_wide'].connector.conv.out_channels == 16
    assert wrapper.terms['cd_deep'].connector.conv.out_channels == 4
    train(wrapper, 2)


def test_no_teacher_is_trained_saved_or_left_behind(make: Make) -> None:
    wrapper = make(term(teacher=['wide', 'deep'], reduction='mean'))
    assert all(key.startswith('student.') for key in wrapper.state_dict())
    before = {
        name: {k: v.clone() for k, v in network.state_dict().items()}
        for name, network in wrapper.teachers.items()
    }
    train(wrapper, 2)
    for name, network in wrapper.teachers.items():
        assert not any(m.training for m in network.modules())
        assert all(torch.equal(v, before[name][k]) for k, v in network.state_dict().items())
    wrapper.double()
    assert all(p.dtype == torch.float64 for t in wrapper.teachers.values() for p in t.parameters())


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(), r"teacher: expected one or more of \['wide', 'deep'\], got none"),
        (dict(teacher='wider'), "there is no teacher 'wider'; expected one of"),
        (dict(teacher=2), 'there is no teacher 2'),
        (dict(teacher=True), 'there is no teacher True'),
        (dict(teacher=[]), r'one or more different teachers, got \[\]'),
        (dict(teacher=['wide', 0]), r"different teachers, got \['wide', 0\]"),
        (dict(teacher='wide', reduction='mean'), 'reduction needs several teachers'),
        (dict(teacher='wide', teacher_weights=[1]), 'teacher_weights needs several teachers'),
        (dict(teacher=[0, 1], reduction='max'), "expected one of .*, got 'max'; nearest: "),
        (dict(teacher=[0, 1], teacher_weights=[1]), r'expected 2 finite numbers >= 0, got \[1\]'),
        (dict(teacher=[0, 1], teacher_weights=[1, -1]), 'expected 2 finite numbers'),
        (
            dict(teacher=[0, 1], reduction='mean', teacher_weights=[1, 1]),
            "teacher_weights goes with reduction='sum', got 'mean'",
        ),
        (
            dict(teacher=[0, 1], reduction='mean', loss=dict(type='ATLoss')),
            'reduction: ATLoss cannot average teachers',
        ),
        (
            dict(teacher=[0, 1], teacher_layer=dict(wide='backbone')),
            r"expected a layer for each of \['wide', 'deep'\], got layers for \['wide'\]",
        ),
    ],
)
def test_a_wrong_choice_of_teachers_is_named(
    make: Make, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make({**term(), **changes})
    assert 'distillation[0]' in str(caught.value)


def test_teachers_of_other_channels_cannot_be_averaged(make: Make) -> None:
    layers = dict(wide='backbone.layer2', deep='neck.fpn_convs.0.conv')
    with pytest.raises(ShapeError, match=r"cannot be averaged: \{'wide': 16, 'deep': 4\}"):
        make(term('backbone.layer2', layers, 'KLLoss', teacher=[0, 1], reduction='mean'))


def test_messages_name_the_teacher(make: Make, tmp_path: Path) -> None:
    wide = {**resnet(8), 'checkpoint': save_weights(resnet(8), tmp_path / 'wide.pth')}
    with pytest.raises(ManyErrors) as caught:
        make(
            term('decode_head.conv_seg', 'backbone.layer9', teacher='b'),
            term(teacher=[0, 2]),
            teacher=[
                {**wide, 'name': 'a', 'checkpiont': 'x'},
                {**wide, 'name': 'b'},
                {**resnet(4)},
            ],
        )
    text = str(caught.value)
    assert "teacher[0]: unknown key 'checkpiont'" not in text  # an inline model's own argument
    assert "the teacher 'b' has no layer 'backbone.layer9'" in text
    assert "teacher 'teacher2': expected checkpoint=" in text
    assert "teacher 'a': EncoderDecoder has no argument 'checkpiont'; nearest: " in text


@pytest.mark.parametrize('key', ['student_layer', 'teacher_layer'])
def test_a_wrong_role_is_said_once(make: Make, key: str) -> None:
    layers = {'student_layer': '@scores', 'teacher_layer': '@scores', key: '@score'}
    with pytest.raises(ConfigError) as caught:
        make({**term(teacher=[0, 1]), **layers})
    assert str(caught.value).startswith(f"distillation[0].{key}: there is no role '@score'; ")
    assert not isinstance(caught.value, ManyErrors)


def test_a_wrong_role_is_said_beside_what_else_is_wrong_with_a_term(make: Make) -> None:
    with pytest.raises(ManyErrors) as caught:
        make(term('@score', loss='KLLoss', teacher=0, weight=-1))
    texts = [str(error).split(',')[0].split(';')[0] for error in caught.value.errors]
    assert texts == [
        'distillation[0].weight: expected a finite number >= 0',
        "distillation[0].student_layer: there is no role '@score'",
    ]


@pytest.mark.parametrize(
    ('names', 'message'),
    [(['a', 'a'], "teacher[1].name: 'a' is the name of another"), (['a b'], "got 'a b'")],
)
def test_wrong_names_of_teachers(make: Make, names: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(term(teacher=0), teacher=[{**resnet(4), 'name': name} for name in names])
    assert message in str(caught.value)


# Several layers in one term.


def transformer(tmp_path: Path, *terms: dict[str, Any]) -> Any:
    teacher = mit(16)
    checkpoint = save_weights(teacher, tmp_path / 'mit.pth')
    return build(
        dict(
            type='DistillationWrapper',
            student=mit(8),
            teacher={**teacher, 'checkpoint': checkpoint},
            distillation=list(terms),
        )
    )


BLOCK = 'backbone.layers.1.1.0.attn.attn'
PARTS = [f'{BLOCK}.weights', f'{BLOCK}.value']


def test_attention_and_value_of_a_block(tmp_path: Path) -> None:
    wrapper = transformer(tmp_path, term(PARTS, PARTS, 'AttentionValueLoss'))
    images = wrapper.data_preprocessor(batch(), training=True)['inputs']
    seen = {}
    for side, network in (('student', wrapper.student), ('teacher', wrapper.teacher)):
        network.eval()
        attention = network.get_submodule(BLOCK)
        with torch.no_grad():
            handle = attention.register_forward_hook(
                lambda m, args, kwargs, out, side=side: seen.update({side: (m, kwargs, out[1])}),
                with_kwargs=True,
            )
            network(images)
            handle.remove()
    weights, relations = {}, {}
    for side, (attention, kwargs, found) in seen.items():
        width = attention.embed_dim
        value = F.linear(
            kwargs['value'], attention.in_proj_weight[-width:], attention.in_proj_bias[-width:]
        ).transpose(0, 1)
        weights[side] = found
        relations[side] = (value @ value.mT / width**0.5).softmax(-1)
    expected = sum(
        (p['teacher'].detach() * (p['teacher'] / p['student']).log()).sum(-1).mean()
        for p in (weights, relations)
    )
    # In eval mode, since dropout and drop path would change the student's block.
    wrapper.student.train = lambda mode=True: wrapper.student
    log = wrapper.train_step(batch(), sgd(wrapper))
    assert log['kd.attentionvalue'].item() == pytest.approx(expected.item(), rel=1e-4)


def test_gradient_of_attention_reaches_the_block(tmp_path: Path) -> None:
    wrapper = transformer(tmp_path, term(PARTS, PARTS, 'AttentionValueLoss'))
    before = wrapper.student.get_submodule(BLOCK).in_proj_weight.clone()
    train(wrapper, 1, lr=1.0)
    assert not torch.equal(before, wrapper.student.get_submodule(BLOCK).in_proj_weight)


@pytest.mark.parametrize(
    ('one', 'message'),
    [
        (
            term(PARTS[0], PARTS[0], 'AttentionValueLoss'),
            'AttentionValueLoss takes a list of 2 layers on each side, got one layer',
        ),
        (term(PARTS, PARTS, 'KLLoss'), 'KLLoss takes one layer on each side, got a list'),
        (term(['backbone'], ['backbone'], 'KLLoss'), 'KLLoss takes one layer on each side'),
        (
            term(PARTS, PARTS[:1], 'AttentionValueLoss'),
            r"as many layers of the teacher as of the student, got 1 \('teacher'\) and 2",
        ),
        (
            term(PARTS, PARTS, 'AttentionValueLoss', connector=dict(type='ConvConnector')),
            'connector: a list of layers is taken as it is',
        ),
        (
            term(PARTS, [PARTS[0].replace('1.1', '0.1'), PARTS[1]], 'AttentionValueLoss'),
            'AttentionValueLoss: attention weights must have the same shape',
        ),
        (
            term([PARTS[0], f'{BLOCK}.valeu'], PARTS, 'AttentionValueLoss'),
            r"student_layer: the student has no layer '.*valeu'; nearest: .*\.value",
        ),
        (term([], [], 'AttentionValueLoss'), "expected a layer's name, got \\[\\]"),
    ],
)
def test_a_wrong_list_of_layers_is_named(tmp_path: Path, one: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        transformer(tmp_path, one)
    assert 'distillation[0]' in str(caught.value)


def test_a_missing_part_is_a_missing_layer(tmp_path: Path) -> None:
    with pytest.raises(LayerNotFoundError):
        transformer(tmp_path, term(['a', PARTS[1]], PARTS, 'AttentionValueLoss'))


def test_dropped_attention_weights_of_the_student_are_refused(tmp_path: Path) -> None:
    student, teacher = mit(8), mit(16)
    student['backbone']['attn_drop_rate'] = 0.1
    teacher['backbone']['attn_drop_rate'] = 0.1
    checkpoint = save_weights(teacher, tmp_path / 'mit.pth')
    model = dict(
        type='DistillationWrapper',
        student=student,
        teacher={**teacher, 'checkpoint': checkpoint},
        distillation=[term(PARTS, PARTS, 'AttentionValueLoss')],
    )
    with pytest.raises(ConfigError, match=r'student_layer: .*drops attention weights') as caught:
        build(model)
    # The teacher's are never dropped: it is in eval mode.
    assert 'teacher_layer' not in str(caught.value)


def test_a_teachers_own_size_and_a_list_of_layers_are_refused(tmp_path: Path) -> None:
    checkpoint = save_weights(mit(16), tmp_path / 'mit.pth')
    model = dict(
        type='DistillationWrapper',
        student=mit(8),
        teacher={**mit(16), 'checkpoint': checkpoint, 'input_size': (64, 64)},
        distillation=[term(PARTS, PARTS, 'AttentionValueLoss')],
    )
    with pytest.raises(ConfigError, match='cannot have an input_size of its own'):
        build(model)


def test_a_teacher_that_no_term_names_is_left_out(make: Make) -> None:
    wrapper = make(term(teacher='deep'))
    assert list(wrapper.teachers) == ['deep']


def test_a_faulty_teacher_does_not_hide_behind_others(make: Make, tmp_path: Path) -> None:
    good = {**resnet(8), 'checkpoint': save_weights(resnet(8), tmp_path / 'good.pth'), 'name': 'b'}
    with pytest.raises(ConfigError) as caught:
        make(term(teacher=1), teacher=[3, good])
    assert str(caught.value) == 'teacher[0]: expected a dict, got 3.'


def test_a_name_without_a_list(make: Make) -> None:
    with pytest.raises(ConfigError, match=r'teacher.name goes with a list of teachers'):
        make(term(), teacher=dict(name='b3', **resnet(8)))
