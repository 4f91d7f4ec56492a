"""One training step of teacher and student, inference, and what a config can get wrong."""

from __future__ import annotations

import copy
import gc
import re
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from builders import (
    CLASSES,
    SIZE,
    batch,
    build,
    counted,
    fcn_head,
    fpn,
    gradients,
    mit,
    ocr_cascade,
    preprocessor,
    resnet,
    same_tensors,
    save_weights,
    sgd,
    term,
    train,
    wrapper_config,
)
from mmengine.model import ExponentialMovingAverage
from mmengine.optim import build_optim_wrapper
from mmseg.models import SegTTAModel
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmseg_kd.errors import (
    CheckpointError,
    ConfigError,
    IterationError,
    LayerNotFoundError,
    ManyErrors,
    ShapeError,
)
from mmseg_kd.schedules import at_iteration as loop_at

Make = Callable[..., Any]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Build a wrapper, by default of two ResNets, with the teacher's weights in a file."""

    def build_wrapper(
        *terms: dict[str, Any],
        student: dict[str, Any] | None = None,
        teacher: dict[str, Any] | None = None,
        seed: int = 0,
        fused: bool = True,
        **changes: Any,
    ) -> Any:
        student = resnet(4) if student is None else student
        teacher = resnet(8) if teacher is None else teacher
        changes.setdefault('checkpoint', save_weights(teacher, tmp_path / 'teacher.pth'))
        checkpoint = changes.pop('checkpoint')
        model = wrapper_config(student, teacher, checkpoint, *terms, **changes)
        return build(dict(**model, fused_task_loss=fused), seed)

    return build_wrapper


def teacher_tensors(wrapper: Any) -> dict[str, Tensor]:
    """A copy of the teacher's weights and statistics."""
    return {key: value.clone() for key, value in wrapper.teacher.state_dict().items()}


def hooked(*networks: nn.Module) -> list[str]:
    """The modules that carry a hook."""
    return [
        name
        for network in networks
        for name, module in network.named_modules()
        if module._forward_hooks or module._forward_pre_hooks
    ]


def networks(wrapper: Any) -> tuple[Any, Any]:
    """Student and teacher."""
    return wrapper.student, wrapper.teacher


def pixel_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) over the classes, mean over the pixels of images of `SIZE`."""
    student, teacher = (
        F.interpolate(scores, SIZE, mode='bilinear').log_softmax(1) for scores in (student, teacher)
    )
    return (teacher.exp() * (teacher - student)).sum(1).mean()


def first_input(wrapper: Any, data: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """What teacher and student are fed with in a training step."""
    seen: dict[str, Tensor] = {}
    for side in ('teacher', 'student'):
        getattr(wrapper, side).backbone.register_forward_pre_hook(
            lambda module, args, side=side: seen.update({side: args[0].clone()})
        )
    wrapper.train_step(data, sgd(wrapper))
    return seen['teacher'], seen['student']


# The teacher stays as it is.


@pytest.mark.parametrize('teacher', [resnet(8), mit(16)], ids=['resnet', 'mit'])
def test_training_leaves_the_teacher_as_it_was(make: Make, teacher: dict[str, Any]) -> None:
    wrapper = make(term(), teacher=teacher)
    before, student = teacher_tensors(wrapper), copy.deepcopy(wrapper.student.state_dict())
    train(wrapper, steps=20)
    assert same_tensors(before, wrapper.teacher.state_dict())
    assert not any(module.training for module in wrapper.teacher.modules())
    assert all(module.training for module in wrapper.student.modules())
    assert not same_tensors(student, wrapper.student.state_dict())


def test_teacher_comes_from_its_checkpoint(make: Make, tmp_path: Path) -> None:
    wrapper = make(term(), fold_bn=False)
    assert same_tensors(torch.load(tmp_path / 'teacher.pth'), wrapper.teacher.state_dict())


def test_teacher_is_no_part_of_the_module(make: Make) -> None:
    wrapper = make(term('backbone.layer1', 'backbone.layer1'))
    own = {id(tensor) for tensor in (*wrapper.parameters(), *wrapper.buffers())}
    theirs = {id(t) for t in (*wrapper.teacher.parameters(), *wrapper.teacher.buffers())}
    assert not own & theirs
    assert not set(wrapper.modules()) & set(wrapper.teacher.modules())
    assert {key.split('.')[0] for key in wrapper.state_dict()} == {'student', 'terms'}


def test_ema_shares_the_teacher_and_copies_the_rest(make: Make) -> None:
    wrapper = make(term('backbone.layer1', 'backbone.layer1'))
    ema = ExponentialMovingAverage(wrapper, momentum=0.5)
    assert ema.module.teacher is wrapper.teacher
    assert ema.module.student is not wrapper.student
    train(wrapper, steps=1)
    ema.update_parameters(wrapper)
    train(wrapper, steps=2)
    assert {key.split('.')[1] for key in ema.state_dict() if '.' in key} == {'student', 'terms'}
    assert not same_tensors(ema.module.student.state_dict(), wrapper.student.state_dict())


def test_casts_reach_the_teacher(make: Make) -> None:
    wrapper = make(term()).to(torch.float64)
    assert all(p.dtype == torch.float64 for p in wrapper.teacher.parameters())
    log = train(wrapper, steps=1)[0]
    assert log['kd.kl'].dtype == torch.float64


def test_moves_to_a_device_reach_the_teacher(make: Make) -> None:
    wrapper = make(term()).to('meta')
    assert all(t.device.type == 'meta' for t in wrapper.teacher.state_dict().values())
    # Where batches go: for pictures of a validation the teacher takes them itself.
    for network in (wrapper, *networks(wrapper)):
        assert network.data_preprocessor.device == torch.device('meta')


# Gradients.


def test_gradients_reach_student_and_connector_only(make: Make) -> None:
    wrapper = make(term('backbone.layer1', 'backbone.layer1', 'CDLoss'))
    assert all(gradient is not None for gradient in gradients(wrapper).values())
    assert not any(p.requires_grad for p in wrapper.teacher.parameters())
    assert all(p.grad is None for p in wrapper.teacher.parameters())


def test_a_term_alone_trains_the_student_up_to_its_layer(make: Make) -> None:
    wrapper = make(term('backbone.layer1', 'backbone.layer1', 'CDLoss', weight=100.0))
    data = wrapper.data_preprocessor(batch(), training=True)
    wrapper(**data, mode='loss')['kd.cd'].backward()
    before = ('student.backbone.stem.', 'student.backbone.layer1.', 'terms.')
    for name, parameter in wrapper.named_parameters():
        assert (parameter.grad is not None) == name.startswith(before)
    assert wrapper.student.backbone.stem[0].weight.grad.any()


def test_gradient_grows_with_the_weight(make: Make) -> None:
    def of_term(weight: float) -> Tensor:
        wrapper = make(term(weight=weight)).eval()
        data = wrapper.data_preprocessor(batch(), training=True)
        wrapper(**data, mode='loss')['kd.kl'].backward()
        return wrapper.student.decode_head.conv_seg.weight.grad

    torch.testing.assert_close(of_term(3.0), 3 * of_term(1.0))


@pytest.mark.parametrize('student', [resnet(4), mit(8)], ids=['resnet', 'mit'])
@pytest.mark.parametrize(
    'terms',
    [
        (),
        (term(weight=0),),
        (term('backbone', weight=0),),
        (term('features', 'features', 'CDLoss', weight=0), term(weight=0, name='b')),
        (term(schedule=dict(type='Jump', begin=100)),),
    ],
    ids=['no terms', 'logits', 'not reached', 'connector', 'schedule'],
)
def test_weight_0_is_the_plain_student_to_the_bit(
    make: Make,
    student: dict[str, Any],
    terms: tuple[dict[str, Any], ...],
    at_iteration: Callable[[int], None],
) -> None:
    at_iteration(0)
    layer = (
        'backbone.layer1' if 'ResNet' in student['backbone']['type'] else 'backbone.layers.0.1.0'
    )
    places = {'features': layer, 'backbone': 'decode_head.conv_seg'}
    terms = tuple(
        {k: places.get(v, v) if isinstance(v, str) else v for k, v in one.items()} for one in terms
    )
    teacher = mit(16) if layer.startswith('backbone.layers') else resnet(8)
    plain = build(student)
    wrapper = make(*terms, student=student, teacher=teacher, fused=False)
    assert same_tensors(plain.state_dict(), wrapper.student.state_dict())

    expected = gradients(plain)
    found = gradients(wrapper)
    for name, gradient in expected.items():
        assert torch.equal(gradient, found[f'student.{name}'])

    plain = build(student)
    wrapper = make(*terms, student=student, teacher=teacher, fused=False)
    for plain_log, log in zip(train(plain, 5), train(wrapper, 5), strict=True):
        assert all(torch.equal(value, log[key]) for key, value in plain_log.items())
    assert same_tensors(plain.state_dict(), wrapper.student.state_dict())


def test_distillation_leaves_initial_weights_and_dropout_as_they_are(make: Make) -> None:
    plain = build(mit(8))
    wrapper = make(
        term('backbone.layers.0.1.0', 'backbone.layers.0.1.0'),
        student=mit(8),
        teacher=mit(16),
        fused=False,
    )
    assert same_tensors(plain.state_dict(), wrapper.student.state_dict())
    plain_log, log = train(plain, 1)[0], train(wrapper, 1)[0]
    assert torch.equal(plain_log['decode.loss_ce'], log['decode.loss_ce'])
    assert log['kd.kl'] > 0


# What is run of the teacher.


def test_teacher_runs_only_while_a_weight_is_not_0(
    make: Make, at_iteration: Callable[[int], None]
) -> None:
    wrapper = make(
        term(schedule=dict(type='Jump', begin=2, end=4)),
        term(loss='CDLoss', schedule=dict(type='Jump', begin=3, end=5)),
    )
    runs = []
    for iteration in range(7):
        at_iteration(iteration)
        with counted(wrapper.teacher, 'backbone') as counts:
            train(wrapper, 1)
        runs.append(counts['backbone'])
    assert runs == [0, 0, 1, 1, 1, 0, 0]


def test_teacher_runs_no_further_than_the_last_tapped_layer(make: Make) -> None:
    wrapper = make(term('backbone.layer1.0', 'backbone.layer1.0'))
    later = ('backbone.layer1.1', 'backbone.layer2.0', 'decode_head.conv_seg')
    with counted(wrapper.teacher, 'backbone.layer1.0', *later) as counts:
        train(wrapper, 1)
    assert counts == {'backbone.layer1.0': 1, **dict.fromkeys(later, 0)}


def test_teacher_runs_no_further_than_active_terms_need(
    make: Make, at_iteration: Callable[[int], None]
) -> None:
    late = term(schedule=dict(type='Jump', begin=5))
    wrapper = make(term('backbone.layer1', 'backbone.layer1', 'CDLoss'), late)
    runs = []
    for iteration in (4, 5):
        at_iteration(iteration)
        with counted(wrapper.teacher, 'backbone.layer1', 'decode_head.conv_seg') as counts:
            train(wrapper, 1)
        runs.append(tuple(counts.values()))
    assert runs == [(1, 0), (1, 1)]


def test_teacher_never_computes_its_own_losses(make: Make) -> None:
    wrapper = make(term())

    def fail(*args: Any, **kwargs: Any) -> None:
        raise AssertionError('the teacher ran in loss mode')

    wrapper.teacher.loss = wrapper.teacher.decode_head.loss = fail
    wrapper.teacher.decode_head.loss_by_feat = fail
    train(wrapper, 1)


# Losses and the log.


def test_log_has_each_term_and_its_weight(make: Make) -> None:
    log = train(make(term(weight=2.0), term(loss='CDLoss', weight=0.5, name='maps')), 1)[0]
    assert set(log) == {
        'loss',
        'task_loss',
        'decode.loss_ce',
        'decode.acc_seg',
        'kd.kl',
        'kd_weight.kl',
        'kd.maps',
        'kd_weight.maps',
    }
    assert log['kd_weight.kl'] == 2.0
    assert log['kd_weight.maps'] == 0.5


@pytest.mark.parametrize('name', ['my_loss', 'plain'])
def test_total_is_the_task_plus_every_term_once(make: Make, name: str) -> None:
    wrapper = make(term(weight=2.0, name=name), term(loss='CDLoss'))
    log = train(wrapper, 1)[0]
    expected = log['decode.loss_ce'] + log[f'kd.{name}'] + log['kd.cd']
    torch.testing.assert_close(log['loss'], expected)
    assert log[f'kd.{name}'] > 0


def test_total_has_no_part_in_which_a_name_matters(make: Make) -> None:
    totals = [train(make(term(name=name)), 3)[-1]['loss'] for name in ('my_loss', 'plain')]
    assert torch.equal(*totals)


def test_terms_on_one_pair_of_layers_keep_keys_of_their_own(make: Make) -> None:
    taus = (1.0, 4.0)
    wrapper = make(*(term(loss=dict(type='KLLoss', tau=tau)) for tau in taus))
    both = train(wrapper, 1)[0]
    assert {'kd.kl', 'kd.kl_2'} <= set(both)
    for key, tau in zip(('kd.kl', 'kd.kl_2'), taus, strict=True):
        alone = train(make(term(loss=dict(type='KLLoss', tau=tau))), 1)[0]
        assert torch.equal(both[key], alone['kd.kl'])


def test_term_is_the_loss_of_the_two_layers(make: Make) -> None:
    wrapper = make(term(weight=2.0)).eval()
    data = wrapper.data_preprocessor(batch(), training=True)
    found = wrapper(**data, mode='loss')['kd.kl']
    expected = pixel_kl(*(n(data['inputs'], mode='tensor') for n in networks(wrapper)))
    torch.testing.assert_close(found, 2.0 * expected)


def test_schedule_follows_the_runner_and_not_the_calls(
    make: Make, at_iteration: Callable[[int], None]
) -> None:
    schedule = [dict(type='LinearWarmup', end=10), dict(type='LinearDecay', begin=20, end=30)]
    wrapper = make(term(weight=4.0, schedule=schedule))
    weights = {}
    for iteration in (0, 5, 5, 25, 15, 30):
        at_iteration(iteration)
        weights[iteration] = float(train(wrapper, 1)[0]['kd_weight.kl'])
    assert weights == {0: 0.0, 5: 2.0, 15: 4.0, 25: 2.0, 30: 0.0}


def test_schedule_goes_on_after_a_resume(make: Make, at_iteration: Callable[[int], None]) -> None:
    wrapper = make(term(schedule=dict(type='LinearWarmup', end=10)))
    at_iteration(6)
    before = train(wrapper, 1)[0]
    resumed = make(term(schedule=dict(type='LinearWarmup', end=10)), seed=1)
    resumed.load_state_dict(wrapper.state_dict())
    at_iteration(7)
    assert before['kd_weight.kl'] == pytest.approx(0.6)
    assert train(resumed, 1)[0]['kd_weight.kl'] == pytest.approx(0.7)


def test_schedule_follows_a_loop_of_ones_own(make: Make) -> None:
    shuffled = dict(type='CGDLoss', group_size=2, shuffle_interval=1)
    wrapper = make(
        term(weight=4.0, schedule=dict(type='LinearWarmup', end=10)), term(loss=shuffled)
    )
    weights = {}
    for iteration in (0, 5, 20):
        with loop_at(iteration):
            log = train(wrapper, 1)[0]
        weights[iteration] = float(log['kd_weight.kl'])
        assert log['kd.cgd'] > 0
    assert weights == {0: 0.0, 5: 2.0, 20: 4.0}


@pytest.mark.parametrize(
    'change',
    [
        dict(schedule=dict(type='LinearWarmup', end=10)),
        dict(loss=dict(type='CGDLoss', group_size=2, shuffle_interval=1)),
    ],
    ids=['schedule', 'shuffle'],
)
def test_what_changes_where_nobody_counts_is_an_error(make: Make, change: dict[str, Any]) -> None:
    wrapper = make(term(**change))
    with pytest.raises(IterationError, match=r'with at_iteration\(i\):'):
        train(wrapper, 1)


def test_what_does_not_change_needs_no_iteration(make: Make) -> None:
    wrapper = make(term(weight=2.0), term(loss=dict(type='CGDLoss', group_size=2)))
    assert float(train(wrapper, 1)[0]['kd_weight.kl']) == 2.0


def test_taps_are_gone_after_the_step(make: Make) -> None:
    wrapper = make(term('backbone.layer1', 'backbone.layer1'), term())
    recorded = []
    for network in networks(wrapper):
        for layer in ('backbone.layer1', 'decode_head.conv_seg'):
            network.get_submodule(layer).register_forward_hook(
                lambda module, args, output: recorded.append(weakref.ref(output))
            )
    log = train(wrapper, 1)[0]
    gc.collect()
    assert len(recorded) == 4
    assert [reference() for reference in recorded] == [None] * 4
    assert not log['kd.kl'].requires_grad


def test_no_hook_stays(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    wrapper = make(term('backbone.layer1', 'backbone.layer1'), term())
    assert hooked(wrapper, wrapper.teacher) == []
    train(wrapper, 1)
    assert hooked(wrapper, wrapper.teacher) == []

    def fail(*args: Any) -> None:
        raise RuntimeError('out of memory')

    for network in (wrapper.teacher, wrapper.student):
        monkeypatch.setattr(network.decode_head.conv_seg, 'forward', fail)
        with pytest.raises(RuntimeError, match='out of memory'):
            train(wrapper, 1)
        assert hooked(wrapper, wrapper.teacher) == []
        monkeypatch.undo()


def test_a_layer_that_is_changed_in_place_is_kept_as_it_was(make: Make) -> None:
    layer = 'backbone.layer1.0.bn1'  # an in-place ReLU follows
    width = 8
    wrapper = make(term(layer, layer, 'CDLoss'), student=resnet(width), teacher=resnet(width))
    seen: list[Tensor] = []
    wrapper.terms['cd'].loss.register_forward_pre_hook(lambda module, args: seen.extend(args[:2]))
    assert all(g is not None for g in gradients(wrapper).values())
    assert all(bool((output < 0).any()) for output in seen)


def act_in_place(act: dict[str, Any]) -> dict[str, Any]:
    """A student whose head has `act`, which changes what it is given, behind its BatchNorm."""
    student = resnet(8)
    return {**student, 'decode_head': {**student['decode_head'], 'act_cfg': act}}


def test_a_layer_that_a_dropout_changes_in_training_is_kept_as_it_was(make: Make) -> None:
    layer = 'decode_head.convs.0.bn'
    student = act_in_place(dict(type='Dropout', drop_prob=0.9, inplace=True))
    wrapper = make(term(layer, layer, 'CDLoss'), student=student, teacher=resnet(8))
    plain = make(student=student, teacher=resnet(8))  # the dry run draws masks of its own
    torch.testing.assert_close(
        wrapper.student.state_dict(), plain.student.state_dict(), rtol=0, atol=0
    )
    seen: list[Tensor] = []
    wrapper.terms['cd'].loss.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    assert all(g is not None for g in gradients(wrapper).values())
    (kept,) = seen
    assert (kept == 0).float().mean() < 0.1


def test_a_layer_that_something_else_changes_in_training_is_named(make: Make) -> None:
    @MODELS.register_module()
    class Doubling(nn.Module):
        def __init__(self, inplace: bool) -> None:
            super().__init__()

        def forward(self, x: Tensor) -> Tensor:
            return x.mul_(2) if self.training else x

    layer = 'decode_head.convs.0.bn'
    try:
        wrapper = make(
            term(layer, layer, 'CDLoss'),
            student=act_in_place(dict(type='Doubling')),
            teacher=resnet(8),
        )
    finally:
        MODELS.module_dict.pop('Doubling')
    with pytest.raises(ConfigError, match=re.escape(f'output of {layer!r} in place')):
        train(wrapper, 1)


# Inference is the student's.


@pytest.fixture(params=['whole', 'slide'])
def pair(request: pytest.FixtureRequest, make: Make) -> tuple[Any, Any]:
    """A wrapper after some training, and a plain student with the same weights."""
    modes = dict(
        whole=dict(mode='whole'), slide=dict(mode='slide', crop_size=(24, 24), stride=(16, 16))
    )
    student = resnet(4, test_cfg=modes[request.param])
    wrapper = make(term(), student=student)
    train(wrapper, 2)
    plain = build(student, seed=1)
    plain.load_state_dict(wrapper.student.state_dict())
    return wrapper.eval(), plain.eval()


def assert_same_predictions(found: list[Any], expected: list[Any]) -> None:
    assert len(found) == len(expected) > 0
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours.seg_logits.data, theirs.seg_logits.data)
        assert torch.equal(ours.pred_sem_seg.data, theirs.pred_sem_seg.data)


def test_predictions_are_the_students(pair: tuple[Any, Any]) -> None:
    wrapper, plain = pair
    with torch.no_grad(), counted(wrapper.teacher, 'backbone') as counts:
        assert_same_predictions(wrapper.test_step(batch()), plain.test_step(batch()))
        assert_same_predictions(wrapper.val_step(batch()), plain.val_step(batch()))
        images = plain.data_preprocessor(batch(), training=False)['inputs']
        assert torch.equal(wrapper(images, mode='tensor'), plain(images, mode='tensor'))
        for ours, theirs in zip(
            wrapper.extract_feat(images), plain.extract_feat(images), strict=True
        ):
            assert torch.equal(ours, theirs)
    assert counts['backbone'] == 0


def test_test_time_augmentation_is_the_students(pair: tuple[Any, Any]) -> None:
    def augmented() -> dict[str, Any]:
        parts = [batch(), batch()]
        parts[1]['inputs'] = [image.flip(-1) for image in parts[1]['inputs']]
        for sample in parts[1]['data_samples']:
            sample.set_metainfo(dict(flip=True, flip_direction='horizontal'))
        return {key: [part[key] for part in parts] for key in ('inputs', 'data_samples')}

    found, expected = (SegTTAModel(module=m).test_step(augmented()) for m in pair)
    assert_same_predictions(found, expected)


# The teacher is fed in its own way.

OTHER = dict(mean=[127.5, 120.0, 110.0], std=[127.5, 64.0, 32.0])


@pytest.mark.parametrize(
    ('student', 'teacher'),
    [
        ({}, {}),
        ({}, OTHER),
        ({}, dict(bgr_to_rgb=False)),
        ({}, dict(bgr_to_rgb=False, rgb_to_bgr=True)),
        ({}, dict(pad_val=3)),
        ({}, dict(bgr_to_rgb=False, pad_val=3)),
        (dict(pad_val=-1), dict(**OTHER, bgr_to_rgb=False, pad_val=2)),
        ({}, dict(mean=None, std=None)),
        (dict(mean=None, std=None, bgr_to_rgb=False), {}),
        (dict(size=None, size_divisor=16), dict(**OTHER, size=None, size_divisor=16)),
    ],
    ids=[
        'the same',
        'mean and std',
        'channel order',
        'either way of swapping channels',
        'padding value',
        'channel order and padding value',
        'everything',
        'teacher takes raw images',
        'student takes raw images',
        'padded to a multiple',
    ],
)
def test_teachers_images_are_those_of_its_own_preprocessor(
    make: Make, student: dict[str, Any], teacher: dict[str, Any]
) -> None:
    size = dict(size=(40, 48))
    wrapper = make(
        term(),
        student=resnet(4, data_preprocessor=preprocessor(**{**size, **student})),
        teacher=resnet(8, data_preprocessor=preprocessor(**{**size, **teacher})),
    )
    sizes = [(32, 24), (20, 40), (40, 48)]
    found, own = first_input(wrapper, batch(sizes))
    expected = wrapper.teacher.data_preprocessor(batch(sizes), training=True)['inputs']
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    kept = wrapper.student.data_preprocessor(batch(sizes), training=True)['inputs']
    assert torch.equal(own, kept)


def test_preprocessor_of_the_wrapper_takes_the_place_of_the_students(tmp_path: Path) -> None:
    teacher = resnet(8)
    checkpoint = save_weights(teacher, tmp_path / 'teacher.pth')
    cfg = wrapper_config(resnet(4), teacher, checkpoint, term())
    wrapper = build({**cfg, 'data_preprocessor': preprocessor(**OTHER, bgr_to_rgb=False)})
    found, own = first_input(wrapper, batch())
    expected = wrapper.teacher.data_preprocessor(batch(), training=True)['inputs']
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    raw = torch.stack(batch()['inputs']).float()
    assert own[0, 0, 0, 0] == pytest.approx((raw[0, 0, 0, 0].item() - 127.5) / 127.5)


def test_input_size_scales_the_teachers_images(make: Make) -> None:
    teacher = resnet(8, data_preprocessor=preprocessor(**OTHER))
    wrapper = make(term(), teacher=teacher, input_size=(48, 64))
    found, own = first_input(wrapper, batch())
    images = wrapper.teacher.data_preprocessor(batch(), training=True)['inputs']
    expected = F.interpolate(images, (48, 64), mode='bilinear', align_corners=False)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    assert own.shape[-2:] == SIZE


def test_tokens_of_a_scaled_teacher_get_the_grid_of_its_own_size(make: Make) -> None:
    layer = 'backbone.layers.0.1.0'
    wrapper = make(
        term(layer, layer, 'CDLoss'), student=mit(8), teacher=mit(16), input_size=(64, 32)
    )
    seen: list[Tensor] = []
    wrapper.terms['cd'].loss.register_forward_pre_hook(lambda module, args: seen.extend(args[:2]))
    train(wrapper, 1)
    assert [tuple(m.shape) for m in seen] == [(2, 16, 8, 8), (2, 16, 16, 8)]


# Connectors.


def test_auto_adds_a_convolution_only_where_channels_differ(make: Make) -> None:
    wrapper = make(term(), term('backbone.layer1', 'backbone.layer1'), term(connector=None))
    kinds = [type(one.connector).__name__ for one in wrapper.terms.values()]
    assert kinds == ['NoneType', 'ConvConnector', 'NoneType']
    weight = wrapper.state_dict()['terms.kl_2.connector.conv.weight']
    assert tuple(weight.shape) == (8, 4, 1, 1)


def test_training_changes_the_connector(make: Make) -> None:
    wrapper = make(term('backbone.layer1', 'backbone.layer1'))
    before = copy.deepcopy(wrapper.terms.state_dict())
    train(wrapper, 3)
    assert not any(torch.equal(v, before[k]) for k, v in wrapper.terms.state_dict().items())


def test_connector_survives_a_resume(make: Make) -> None:
    one = term('backbone.layer1', 'backbone.layer1')
    wrapper, other = make(one), make(one, seed=5)
    train(wrapper, 2)
    other.load_state_dict(wrapper.state_dict())
    assert same_tensors(wrapper.terms.state_dict(), other.terms.state_dict())


@pytest.mark.parametrize(
    ('student', 'teacher', 'layers', 'channels'),
    [
        (mit(8), mit(16), ('backbone.layers.1.0.projection',) * 2, (16, 32)),
        (mit(8), resnet(8), ('backbone.layers.0.1.0', 'backbone.layer2'), (8, 16)),
        (resnet(4), mit(16), ('backbone.layer2', 'backbone.layers.1.1.0'), (8, 32)),
    ],
    ids=['patch embedding', 'tokens to map', 'map to tokens'],
)
def test_tokens_and_maps_are_compared(
    make: Make,
    student: dict[str, Any],
    teacher: dict[str, Any],
    layers: tuple[str, str],
    channels: tuple[int, int],
) -> None:
    wrapper = make(term(*layers, 'CDLoss'), student=student, teacher=teacher)
    conv = wrapper.terms['cd'].connector.conv
    assert (conv.in_channels, conv.out_channels) == channels
    assert train(wrapper, 2)[-1]['kd.cd'] > 0


@pytest.mark.parametrize('change', [dict(weight=0), dict(schedule=dict(type='Jump', begin=50))])
def test_an_idle_connector_has_a_gradient_of_0(
    make: Make, change: dict[str, Any], at_iteration: Callable[[int], None]
) -> None:
    at_iteration(0)
    wrapper = make(term('backbone.layer1', 'backbone.layer1', **change), term())
    found = {k: g for k, g in gradients(wrapper).items() if k.startswith('terms.')}
    assert found
    assert all(g is not None and not g.any() for g in found.values())


def test_a_connector_of_the_config_is_used(make: Make) -> None:
    connector = dict(type='ConvConnector', kernel_size=3)
    wrapper = make(term('backbone.layer1', 'backbone.layer1', connector=connector))
    assert wrapper.terms['kl'].connector.conv.kernel_size == (3, 3)


def test_no_connector_between_different_channels_is_an_error(make: Make) -> None:
    with pytest.raises(ShapeError, match=r"gives 4 channels and 'backbone.layer1' 8"):
        make(term('backbone.layer1', 'backbone.layer1', connector=None))


def test_classifiers_of_different_classes_are_an_error(make: Make) -> None:
    with pytest.raises(ShapeError, match=r'5 classes apart and the teacher 7'):
        make(term(), teacher=resnet(8, classes=7))


def test_features_of_a_teacher_with_other_classes_are_compared(make: Make) -> None:
    wrapper = make(term('backbone.layer2', 'backbone.layer2'), teacher=resnet(8, classes=7))
    assert train(wrapper, 1)[0]['kd.kl'] > 0


# Networks with more parts.


@pytest.mark.parametrize(
    ('heads', 'layer'),
    [
        (fcn_head(4, 0), 'auxiliary_head.conv_seg'),
        ([fcn_head(4, 0), fcn_head(8, 1)], 'auxiliary_head.1.conv_seg'),
    ],
    ids=['one', 'list'],
)
def test_auxiliary_heads_are_tapped_on_both_sides(make: Make, heads: Any, layer: str) -> None:
    network = resnet(4, auxiliary_head=heads)
    wrapper = make(term(layer, layer), term(), student=network, teacher=network)
    train(wrapper, 2)
    data = wrapper.eval().data_preprocessor(batch(), training=True)
    log = wrapper(**data, mode='loss')
    head = layer.rpartition('.')[0]
    expected = pixel_kl(
        *(n.get_submodule(head)(n.extract_feat(data['inputs'])) for n in networks(wrapper))
    )
    torch.testing.assert_close(log['kd.kl'], expected)
    decode = pixel_kl(*(n(data['inputs'], mode='tensor') for n in networks(wrapper)))
    torch.testing.assert_close(log['kd.kl_2'], decode)


def test_a_teachers_auxiliary_head_needs_no_decode_head(make: Make) -> None:
    network = resnet(4, auxiliary_head=fcn_head(4, 0))
    layer = 'auxiliary_head.conv_seg'
    wrapper = make(term('decode_head.conv_seg', layer), student=network, teacher=network)
    with counted(wrapper.teacher, layer, 'decode_head.conv_seg') as counts:
        train(wrapper, 1)
    assert counts == {layer: 1, 'decode_head.conv_seg': 0}


def test_a_head_as_a_whole_is_refused_before_training(make: Make) -> None:
    network = resnet(4, auxiliary_head=fcn_head(4, 0))
    for layer in ('decode_head', 'auxiliary_head'):
        with pytest.raises(ShapeError, match='does not run'):
            make(term(layer, 'decode_head.conv_seg'), student=network)


@pytest.mark.parametrize('index', [0, 1])
def test_heads_of_a_cascade_are_tapped(make: Make, index: int) -> None:
    layer = f'decode_head.{index}.conv_seg'
    wrapper = make(term(layer, layer), student=ocr_cascade(4), teacher=ocr_cascade(8))
    assert train(wrapper, 2)[-1]['kd.kl'] > 0
    with counted(wrapper.teacher, 'decode_head.1.conv_seg') as counts:
        train(wrapper, 1)
    assert counts['decode_head.1.conv_seg'] == index


def test_a_cascade_teaches_a_plain_network(make: Make) -> None:
    wrapper = make(term('decode_head.conv_seg', 'decode_head.1.conv_seg'), teacher=ocr_cascade(8))
    assert train(wrapper, 2)[-1]['kd.kl'] > 0


def test_necks_are_tapped_on_both_sides(make: Make) -> None:
    layer = 'neck.fpn_convs.1.conv'
    wrapper = make(term(layer, layer), student=fpn(4, 4), teacher=fpn(8, 8))
    assert tuple(wrapper.terms['kl'].connector.conv.weight.shape) == (8, 4, 1, 1)
    assert train(wrapper, 2)[-1]['kd.kl'] > 0


# What a config can get wrong.


def test_all_problems_are_reported_at_once(make: Make, tmp_path: Path) -> None:
    terms = [
        term('decode_head.conv_sge', 'backbone.layr1'),
        term(loss='CDGLoss'),
        term(loss=dict(type='KLLoss', tua=2.0), weight=float('nan')),
        term(waight=1.0),
        term('backbone.layer9', loss='KLoss'),
    ]
    with pytest.raises(ManyErrors) as raised:
        make(*terms, checkpoint=str(tmp_path / 'absent.pth'))
    message = str(raised.value)
    for part in (
        "distillation[0].student_layer: the student has no layer 'decode_head.conv_sge'; "
        'nearest: decode_head.conv_seg',
        "distillation[0].teacher_layer: the teacher has no layer 'backbone.layr1'; "
        'nearest: backbone.layer1',
        "distillation[1].loss: there is no kd_loss 'CDGLoss'; nearest: CDLoss, CSDLoss, CGDLoss",
        "distillation[2].loss: KLLoss has no argument 'tua'; nearest: tau",
        "distillation[2].weight: expected a finite number >= 0, 'auto' or dict(share=...), got nan",
        "distillation[3]: unknown key 'waight'; nearest: weight",
        "distillation[4].student_layer: the student has no layer 'backbone.layer9'",
        "distillation[4].loss: there is no kd_loss 'KLoss'; nearest: KLLoss",
        'absent.pth: there is no such checkpoint file',
    ):
        assert part in message
    assert len(raised.value.errors) == 9


@pytest.mark.parametrize(
    ('one', 'message'),
    [
        (term('decode_head.conv_sge'), r'student has no layer .*nearest: decode_head\.conv_seg'),
        (
            term(teacher_layer='x'),
            r"distillation\[0\]\.teacher_layer: the teacher has no layer 'x'",
        ),
        (term(loss='CGD'), r"no kd_loss 'CGD'; nearest: CWD, CGDLoss"),
        (term(loss=dict(type='CGDLoss', groups=3)), r"no argument 'groups'; nearest: group_size"),
        (
            term(loss=dict(type='KLLoss', tau=-1)),
            r'KLLoss: tau must be a finite number > 0, got -1',
        ),
        (term(loss='KLLoss', weight=float('nan')), r'weight: expected a finite number .* nan'),
        (term(weight=float('inf')), r'weight: expected a finite number .* inf'),
        (term(weight='3'), r"weight: expected a finite number >= 0, 'auto' or dict.*, got '3'"),
        (term(shedule=[]), r"unknown key 'shedule'; nearest: schedule"),
        (term(schedule=dict(type='Jmp')), r"no schedule 'Jmp'; nearest: Jump"),
        (term(schedule=dict(type='LinearWarmup', end=0)), r'expected 0 <= begin < end'),
        (term(connector=dict(type='Conv')), r"no connector 'Conv'; nearest: ConvConnector"),
        (dict(student_layer='backbone.layer1'), r'teacher_layer is missing(.|\n)*loss is missing'),
        (term('decode_head.loss_decode'), r"'decode_head.loss_decode' does not run in a forward"),
        (term('backbone'), r"'backbone' \(ResNetV1c\) puts out a tuple, not one tensor"),
        ('KLLoss', r"distillation\[0\]: expected a dict, got 'KLLoss'"),
    ],
)
def test_a_wrong_term_is_named(make: Make, one: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(one)


def test_a_loss_that_gives_a_map_is_an_error(make: Make) -> None:
    class Difference(nn.Module):
        def forward(self, student: Tensor, teacher: Tensor, label: Tensor) -> Tensor:
            return student - teacher

    with pytest.raises(ShapeError, match=r'Difference: expected a scalar tensor, got one of shape'):
        make(term(loss=dict(type=Difference)))


def test_a_loss_is_tried_without_a_trace(make: Make) -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(CLASSES)

        def forward(self, student: Tensor, teacher: Tensor, label: Tensor) -> Tensor:
            return (self.norm(student) - teacher).square().mean()

    wrapper = make(term(loss=dict(type=Counting), name='counting'))
    norm = wrapper.terms['counting'].loss.norm
    assert norm.num_batches_tracked == 0
    assert norm.training


def test_two_terms_of_one_name_are_an_error(make: Make) -> None:
    with pytest.raises(ConfigError, match=r"distillation\[1\]\.name: 'a' is the name of another"):
        make(term(name='a'), term(name='a'))


def test_an_unknown_layer_is_an_error_of_its_own_kind(make: Make) -> None:
    with pytest.raises(LayerNotFoundError, match=r'mmseg-kd layers CONFIG'):
        make(term('backbone.layer3'))


def test_terms_without_a_teacher_are_an_error() -> None:
    cfg = dict(type='DistillationWrapper', student=resnet(4), distillation=[term()])
    with pytest.raises(ConfigError, match='there are terms in distillation, but no teacher'):
        MODELS.build(cfg)


def test_no_terms_need_no_teacher() -> None:
    wrapper = build(dict(type='DistillationWrapper', student=resnet(4)))
    assert wrapper.teacher is None
    log = train(wrapper, 1)[0]
    assert set(log) == {'loss', 'task_loss', 'decode.loss_ce', 'decode.acc_seg'}
    assert log['task_loss'] == log['loss'] == log['decode.loss_ce']


def test_a_teacher_without_checkpoint_is_an_error(make: Make) -> None:
    with pytest.raises(ConfigError, match='teacher: expected checkpoint='):
        make(term(), checkpoint=None)


def test_a_missing_checkpoint_is_an_error(make: Make, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r'absent\.pth: there is no such checkpoint file'):
        make(term(), checkpoint=str(tmp_path / 'absent.pth'))


def test_a_truncated_checkpoint_is_an_error(make: Make, tmp_path: Path) -> None:
    whole = Path(save_weights(resnet(8), tmp_path / 'whole.pth')).read_bytes()
    for size in (0, 100, len(whole) // 2, len(whole) - 1):
        path = tmp_path / 'torn.pth'
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r'torn\.pth: torn or no checkpoint'):
            make(term(), checkpoint=str(path))


def test_a_checkpoint_of_another_network_is_an_error(make: Make, tmp_path: Path) -> None:
    other = save_weights(mit(8), tmp_path / 'other.pth')
    with pytest.raises(CheckpointError, match=r'other\.pth: (does not fit|belongs to another)'):
        make(term(), checkpoint=other)
    torch.save({'weight': torch.zeros(3)}, other)
    with pytest.raises(CheckpointError, match='belongs to another network: none of its 1 tensors'):
        make(term(), checkpoint=other)


def test_a_mismatch_matters_where_distillation_uses_it(make: Make, tmp_path: Path) -> None:
    other = save_weights(resnet(8, classes=7), tmp_path / 'seven.pth')
    with pytest.raises(CheckpointError, match=r'conv_seg\.\w+ \(7.* in the file, 5.* in the net'):
        make(term(), checkpoint=other)
    assert train(make(term(), checkpoint=other, strict=False), 1)[0]['kd.kl'] > 0
    wrapper = make(term('backbone.layer1', 'backbone.layer1'), checkpoint=other)
    assert train(wrapper, 1)[0]['kd.kl'] > 0


def test_a_missing_tensor_matters_where_distillation_uses_it(make: Make, tmp_path: Path) -> None:
    path = tmp_path / 'part.pth'
    weights = torch.load(save_weights(resnet(8), path))
    torch.save({k: v for k, v in weights.items() if 'layer2.1.bn2' not in k}, path)
    with pytest.raises(CheckpointError, match=r'4 tensors are missing'):
        make(term(), checkpoint=str(path))
    make(term('backbone.layer1', 'backbone.layer1'), checkpoint=str(path))


def test_an_unknown_config_of_mmseg_is_an_error() -> None:
    wanted = 'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x513.py'
    cfg = dict(type='DistillationWrapper', student=dict(config=wanted))
    with pytest.raises(ConfigError, match=r'student\.config: mmseg .*b0_8xb2-160k_ade20k-512x512'):
        MODELS.build(cfg)


def test_an_unknown_key_of_a_network_is_an_error() -> None:
    cfg = dict(type='DistillationWrapper', student=dict(config='mmseg::x.py', checkpiont='a'))
    with pytest.raises(
        ConfigError, match=r"student: unknown key 'checkpiont'; nearest: checkpoint"
    ):
        MODELS.build(cfg)


def test_an_error_of_mmseg_names_the_side(make: Make) -> None:
    broken = resnet(4)
    broken['backbone'] = dict(type='ResNetV1c', depth=19)
    with pytest.raises(ConfigError, match=r'student: .*invalid depth 19 for resnet'):
        make(term(), student=broken)


def test_students_checkpoint_is_loaded_or_refused(tmp_path: Path) -> None:
    path = save_weights(resnet(4), tmp_path / 'student.pth')
    wrapper = build(dict(type='DistillationWrapper', student={**resnet(4), 'checkpoint': path}))
    assert same_tensors(wrapper.student.state_dict(), torch.load(path))
    seven = {**resnet(4, classes=7), 'checkpoint': path}
    with pytest.raises(CheckpointError, match='Give the checkpoint of the same architecture'):
        build(dict(type='DistillationWrapper', student=seven))
    build(dict(type='DistillationWrapper', student={**seven, 'strict': False}))


def test_weights_and_ignored_pixels_of_real_batches_give_finite_numbers(make: Make) -> None:
    wrapper = make(
        term(loss=dict(type='CGDLoss', group_size=2, ignore_index=255)),
        term(loss=dict(type='KLLoss', ignore_index=255)),
    )
    for blank in (0.5, 1.0):
        log = wrapper.train_step(batch(blank=blank, classes=CLASSES), sgd(wrapper))
        assert all(bool(value.isfinite().all()) for value in log.values())


def test_the_task_loss_is_fused_by_default(make: Make) -> None:
    fused, plain = make(term()), make(term(), fused=False)
    logs = [train(wrapper, 3) for wrapper in (fused, plain)]
    for ours, theirs in zip(*logs, strict=True):
        for key, value in theirs.items():
            torch.testing.assert_close(ours[key], value, rtol=1e-4, atol=1e-5)
    assert fused.student.decode_head.loss_by_feat.__name__ == '_loss_by_feat'
    assert plain.student.decode_head.loss_by_feat.__name__ == 'loss_by_feat'


# A term must reach the student.


@pytest.mark.parametrize('layer', ['backbone.layer1', 'backbone.layer1.0.conv1'])
def test_a_frozen_layer_is_an_error(make: Make, layer: str) -> None:
    wrapper = make(term(layer, layer, 'CDLoss'))
    wrapper.student.backbone.requires_grad_(False)
    with pytest.raises(
        ConfigError, match=f"student_layer: '{layer}' gives the student no gradient"
    ):
        train(wrapper, 1)
    with torch.no_grad():
        data = wrapper.data_preprocessor(batch(), training=True)
        assert 'kd.cd' in wrapper.loss(**data)


def test_a_recomputed_layer_is_an_error(make: Make) -> None:
    student = resnet(4)
    student['backbone']['with_cp'] = True
    # Of the first stage, whose input has a gradient, and of a module inside what is recomputed.
    with pytest.raises(ConfigError, match='gives the student no gradient'):
        make(term('backbone.layer2.1.conv1', 'backbone.layer2.1.conv1'), student=student)
    train(make(term(), student=student), 1)


# Names and values that are not what they should be.


@pytest.mark.parametrize('name', ['values', 'keys', 'type', 'train'])
def test_a_name_that_a_module_dict_has_is_refused(make: Make, name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}' clashes with nn.ModuleDict"):
        make(term(name=name))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(schedule=5), r'schedule: expected a dict or a list of dicts, got 5'),
        (dict(schedule='LinearWarmup'), r"schedule: expected a dict .* got 'LinearWarmup'"),
        (dict(schedule=[3]), r'schedule\[0\]: expected dict'),
        (dict(weight=True), "weight: expected a finite number >= 0, 'auto' or dict.*, got True"),
        ({3: 4}, 'expected words for keys, got 3'),
        (
            dict(schedule=dict(type='RandomTurn', index=0, count=2, seed=1.5)),
            'expected whole numbers, got index=0, count=2, seed=1.5',
        ),
    ],
)
def test_a_wrong_value_is_named(make: Make, change: dict[Any, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make({**term(), **change})
    assert 'distillation[0]' in str(caught.value)


def test_the_connectors_dry_run_leaves_it_as_it_was(make: Make) -> None:
    class NormedConnector(torch.nn.Sequential):
        def __init__(self, student_channels: int, teacher_channels: int) -> None:
            super().__init__(
                torch.nn.Conv2d(student_channels, teacher_channels, 1),
                torch.nn.BatchNorm2d(teacher_channels),
            )

    one = term('backbone.layer1', 'backbone.layer1', 'CDLoss', connector=dict(type=NormedConnector))
    connector = make(one).terms['cd'].connector
    assert connector[1].num_batches_tracked == 0
    assert connector.training


@pytest.mark.parametrize('count', [3, 7])
def test_class_weights_are_as_many_as_classes(make: Make, count: int) -> None:
    loss = dict(type='CrossEntropyLoss', class_weight=[1.0] * count)
    student = resnet(4, auxiliary_head=fcn_head(4, 0))
    for head in (student['decode_head'], student['auxiliary_head']):
        head['loss_decode'] = loss
    with pytest.raises(ManyErrors) as caught:
        make(term(), student=student)
    assert [str(error) for error in caught.value.errors] == [
        f'student: {head}.loss_decode: CrossEntropyLoss: class_weight: expected 5 values, one for '
        f'each channel of the scores, got {count}.'
        for head in ('decode_head', 'auxiliary_head')
    ]


def test_a_head_without_losses_of_its_own(make: Make) -> None:
    # KNet's, in which the head that makes the kernels and those that update them have the losses.
    update = dict(
        type='KernelUpdateHead',
        num_classes=CLASSES,
        num_heads=2,
        num_mask_fcs=1,
        feedforward_channels=8,
        in_channels=8,
        out_channels=8,
        feat_transform_cfg=None,
        kernel_updator_cfg=dict(
            type='KernelUpdator', in_channels=8, feat_channels=8, out_channels=8
        ),
    )
    head = dict(
        type='IterativeDecodeHead',
        num_stages=1,
        kernel_generate_head=fcn_head(8, 1),
        kernel_update_head=[update],
    )
    layer = 'decode_head.kernel_generate_head.conv_seg'
    wrapper = make(term(layer), student=resnet(4, decode_head=head))
    [log] = train(wrapper, 1)
    assert {'decode.loss_ce.s0', 'decode.loss_ce.s1', 'kd.kl'} <= log.keys()
    assert torch.isfinite(log['loss'])


def test_a_teacher_that_draws_random_numbers_leaves_the_students_alone(make: Make) -> None:
    wrapper = make(term())
    plain = gradients(wrapper)

    def draw(*_: Any) -> None:
        torch.rand(7)

    wrapper.teacher.backbone.register_forward_hook(draw)
    drawing = gradients(wrapper)
    assert plain.keys() == drawing.keys()
    assert all(torch.equal(plain[name], drawing[name]) for name in plain if 'terms' not in name)


@pytest.mark.parametrize('kind', ['BEiT', 'MAE'])
def test_layer_wise_decay_is_that_of_the_plain_network(make: Make, kind: str) -> None:
    vit = dict(img_size=(64, 64), patch_size=16, embed_dims=24, num_layers=2, num_heads=2)
    backbone = dict(type=kind, mlp_ratio=2, out_indices=(0, 1), init_values=0.1, **vit)
    student = resnet(4, backbone=backbone, decode_head=fcn_head(24, 1))
    decay = dict(num_layers=2, decay_rate=0.5, decay_type='layer_wise_vit')
    optimizer = dict(
        type='OptimWrapper',
        optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
        constructor='LearningRateDecayOptimizerConstructor',
        paramwise_cfg=decay,
    )

    def rates(network: Any) -> dict[str, tuple[float, float]]:
        names = {id(p): name for name, p in network.named_parameters()}
        groups = build_optim_wrapper(network, copy.deepcopy(optimizer)).optimizer.param_groups
        return {
            names[id(p)]: (group['lr'], group['weight_decay'])
            for group in groups
            for p in group['params']
        }

    wrapper = make(term('decode_head.convs.0', 'backbone.layer2', 'CDLoss'), student=student)
    expected = {f'student.{name}': rate for name, rate in rates(build(student)).items()}
    found = rates(wrapper)
    of_terms = {name: found.pop(name) for name in list(found) if name.startswith('terms.')}
    assert found == expected
    assert len(set(expected.values())) > 4
    assert set(of_terms.values()) == {(1e-3, 0.05)}
