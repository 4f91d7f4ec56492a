"""Teachers that are the student: its average, its own deeper layers, a run that is over."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from builders import (
    SIZE,
    batch,
    build,
    fcn_head,
    resnet,
    same_tensors,
    save_weights,
    sgd,
    term,
    train,
    wrapper_config,
    write_config,
)
from mmengine.config import Config
from mmengine.model import (
    ExponentialMovingAverage,
    convert_sync_batchnorm,
    revert_sync_batchnorm,
)
from mmengine.optim import build_optim_wrapper
from torch import Tensor, nn

from mmseg_kd.config.network_spec import networks_of, parse_network, teacher_of
from mmseg_kd.config.resolved import resolved
from mmseg_kd.engine.arguments import model_config
from mmseg_kd.errors import ConfigError, ManyErrors
from mmseg_kd.networks.layers import list_layers


def model(teacher: Any, *terms: Any, **student: Any) -> dict[str, Any]:
    return dict(
        type='DistillationWrapper',
        student=resnet(4, **student),
        teacher=teacher,
        distillation=list(terms or [term()]),
    )


def average(**changes: Any) -> dict[str, Any]:
    return dict(type='EMATeacher', **changes)


def tensors(network: Any) -> dict[str, Tensor]:
    return copy.deepcopy(network.state_dict())


# EMATeacher.


def test_average_of_what_the_student_has_been() -> None:
    wrapper = build(model(average(momentum=0.4)))
    wrapper.train()
    optimiser = sgd(wrapper, lr=0.1)
    # In the first updates the mean, from the third on 0.4 of the student.
    expected: dict[str, Tensor] = {}
    for step, share in enumerate((1, 1 / 2, 0.4, 0.4)):
        now = tensors(wrapper.student)
        if not expected:
            expected = now
        for key, value in now.items():
            if value.is_floating_point():
                expected[key] = expected[key] + share * (value - expected[key])
            else:
                expected[key] = value
        wrapper.train_step(batch(seed=step), optimiser)
        found = wrapper.teacher.state_dict()
        assert found.keys() == expected.keys()
        for key, value in found.items():
            torch.testing.assert_close(value, expected[key], rtol=1e-5, atol=1e-6)
    assert not same_tensors(wrapper.student.state_dict(), found)


def test_average_is_frozen_and_left_alone() -> None:
    wrapper = build(model(average()))
    train(wrapper, steps=2)
    assert not any(module.training for module in wrapper.teacher.modules())
    learning = {key.split('.')[0] for key, p in wrapper.named_parameters() if p.requires_grad}
    assert learning == {'student'}
    # No gradient, no decay.
    optimiser = build_optim_wrapper(
        wrapper, dict(optimizer=dict(type='SGD', lr=0.1, weight_decay=0.5))
    )
    average_before = tensors(wrapper.teacher)
    optimiser.update_params(sum(p.sum() for p in wrapper.student.parameters()))
    assert same_tensors(average_before, wrapper.teacher.state_dict())
    before = tensors(wrapper.teacher)
    wrapper.eval()(**wrapper.data_preprocessor(batch()), mode='predict')
    assert same_tensors(before, wrapper.teacher.state_dict())
    assert wrapper.to(torch.float64).teacher.decode_head.conv_seg.weight.dtype == torch.float64


def test_average_goes_with_synchronised_batch_norm() -> None:
    wrapper = convert_sync_batchnorm(build(model(average())), 'torch')
    assert any(isinstance(m, nn.SyncBatchNorm) for m in wrapper.teacher.modules())
    wrapper = revert_sync_batchnorm(wrapper)
    train(wrapper, steps=1)
    student, teacher = wrapper.student.state_dict(), wrapper.teacher.state_dict()
    assert student.keys() == teacher.keys()


def test_average_is_saved_and_resumed_to_the_bit() -> None:
    whole, resumed = build(model(average(momentum=0.3))), build(model(average(momentum=0.3)), 1)
    train(whole, steps=2)
    resumed.load_state_dict(whole.state_dict())
    for wrapper in (whole, resumed):
        train(wrapper, steps=2, seed=5)
    assert same_tensors(whole.state_dict(), resumed.state_dict())
    assert 'averaged.teacher.network.decode_head.conv_seg.weight' in whole.state_dict()


def test_average_under_mmengines_ema() -> None:
    wrapper = build(model(average()))
    ema = ExponentialMovingAverage(wrapper, momentum=0.5)
    train(wrapper, steps=1)
    ema.update_parameters(wrapper)
    assert ema.module.teacher is wrapper.teacher
    assert ema.module.state_dict().keys() == wrapper.state_dict().keys()


def test_average_teaches_what_it_gives() -> None:
    wrapper = build(model(average(momentum=0.5), term(weight=2.0), dropout=0.0))
    train(wrapper, steps=2)
    wrapper.train()
    data = wrapper.data_preprocessor(batch(seed=9), training=True)
    found = wrapper(**data, mode='loss')['kd.kl']
    student, teacher = (
        F.interpolate(network(data['inputs']), SIZE, mode='bilinear').log_softmax(1)
        for network in (wrapper.student, wrapper.teacher)
    )
    expected = 2 * (teacher.exp() * (teacher - student)).sum(1).mean()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)
    assert found > 0


# SelfTeacher.


def test_deeper_layers_teach_earlier_ones_in_the_same_pass() -> None:
    pair = term('auxiliary_head.conv_seg', 'decode_head.conv_seg')
    teacher = dict(type='SelfTeacher')
    wrapper = build(model(teacher, pair, auxiliary_head=fcn_head(4, 0)))
    wrapper.train()
    seen: dict[str, Tensor] = {}
    runs = []
    for head in ('auxiliary_head', 'decode_head'):
        module = getattr(wrapper.student, head).conv_seg
        module.register_forward_hook(lambda m, a, out, head=head: seen.update({head: out}))
    wrapper.student.backbone.register_forward_pre_hook(lambda *_: runs.append(1))
    data = wrapper.data_preprocessor(batch(), training=True)
    found = wrapper(**data, mode='loss')['kd.kl']
    student, own = (
        F.interpolate(seen[head], SIZE, mode='bilinear').log_softmax(1)
        for head in ('auxiliary_head', 'decode_head')
    )
    expected = (own.exp() * (own - student)).sum(1).mean()
    torch.testing.assert_close(found, expected)
    assert len(runs) == 1
    found.backward()
    assert wrapper.student.auxiliary_head.conv_seg.weight.grad.any()
    assert wrapper.student.decode_head.conv_seg.weight.grad is None
    assert wrapper.teacher is None
    assert {key.split('.')[0] for key in wrapper.state_dict()} == {'student'}


class Distance(nn.Module):
    """A loss that detaches nothing itself."""

    def forward(self, student: Tensor, teacher: Tensor, label: Tensor) -> Tensor:
        return (student.mean((2, 3)) - teacher.mean((2, 3))).square().mean()


def test_the_deeper_layer_learns_nothing_from_it() -> None:
    pair = term('auxiliary_head.conv_seg', loss=dict(type=Distance), name='own')
    wrapper = build(model(dict(type='SelfTeacher'), pair, auxiliary_head=fcn_head(4, 0)))
    data = wrapper.data_preprocessor(batch(), training=True)
    wrapper.train()(**data, mode='loss')['kd.own'].backward()
    assert wrapper.student.auxiliary_head.conv_seg.weight.grad.any()
    assert wrapper.student.decode_head.conv_seg.weight.grad is None


def test_a_connector_leads_to_a_deeper_layer() -> None:
    pair = term('backbone.layer1', 'backbone.layer2', 'CDLoss')
    wrapper = build(model(dict(type='SelfTeacher'), pair))
    assert wrapper.terms['cd'].connector.conv.out_channels == 8
    assert train(wrapper, steps=2)[-1]['kd.cd'] > 0


def test_beside_other_teachers(tmp_path: Path) -> None:
    frozen = {**resnet(8), 'checkpoint': save_weights(resnet(8), tmp_path / 'teacher.pth')}
    teachers = [frozen, average(name='average'), dict(type='SelfTeacher', name='self')]
    features = term('backbone.layer1', 'backbone.layer2', 'CDLoss', teacher='self')
    wrapper = build(model(teachers, term(teacher=['teacher0', 'average']), features))
    log = train(wrapper, steps=2)[-1]
    assert {key for key in log if key.startswith('kd.')} == {
        'kd.kl_teacher0',
        'kd.kl_average',
        'kd.cd_self',
    }
    assert list(wrapper.teachers) == ['teacher0', 'average']


@pytest.mark.parametrize(
    ('teacher', 'message'),
    [
        (average(momentum=0), 'teacher.momentum: expected a number > 0 and <= 1, got 0'),
        (average(momentun=0.1), "EMATeacher has no key 'momentun'; nearest: momentum"),
        (average(fold_bn=True), "EMATeacher has no key 'fold_bn'"),
        (average(checkpoint='a.pth'), "EMATeacher has no key 'checkpoint'"),
        (dict(type='SelfTeacher', momentum=0.1), "SelfTeacher has no key 'momentum'."),
    ],
)
def test_wrong_keys(teacher: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(model(teacher))


def test_wrong_layers() -> None:
    pairs = term('decode_head.conv_seg', 'decode_head.conv'), term('nowhere', 'backbone.layer1')
    with pytest.raises(ManyErrors) as caught:
        build(model(dict(type='SelfTeacher'), *pairs))
    text = str(caught.value)
    assert "distillation[0].teacher_layer: the teacher has no layer 'decode_head.conv'" in text
    assert "distillation[1].student_layer: the student has no layer 'nowhere'" in text


def test_commands_see_the_students_network() -> None:
    cfg = Config(dict(model=model(average())))
    networks = networks_of(cfg)
    assert networks['teacher'].model == networks['student'].model
    assert list_layers(build(networks['teacher'].model))
    assert resolved(cfg.model.to_dict())['teacher'] == average()
    with pytest.raises(ConfigError, match=r'the student itself \(EMATeacher\)'):
        teacher_of(cfg, None)


# A run that is over.


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The work dir of a run of a distillation."""
    folder = tmp_path / 'run'
    folder.mkdir()
    student = resnet(4)
    teacher = wrapper_config(student, resnet(8), 'gone.pth', term())
    write_config(folder, teacher, Path('data'))
    weights = torch.load(save_weights(student, tmp_path / 'weights.pth'))
    state = {f'student.{key}': value for key, value in weights.items()}
    torch.save(dict(state_dict=state), folder / 'best_mIoU_iter_4.pth')
    return folder


@pytest.mark.parametrize('as_dict', [False, True])
def test_born_again(run: Path, tmp_path: Path, as_dict: bool) -> None:
    teacher = dict(run=str(run), fold_bn=False) if as_dict else str(run)
    wrapper = build(model(teacher))
    expected = torch.load(tmp_path / 'weights.pth')['decode_head.conv_seg.weight']
    assert torch.equal(wrapper.teacher.decode_head.conv_seg.weight, expected)
    train(wrapper, steps=1)


def test_a_run_among_several_teachers_and_as_student(run: Path) -> None:
    cfg = model([str(run), average(name='own')], term(teacher=[0, 'own']))
    cfg['student'] = dict(run=str(run))
    wrapper = build(cfg)
    assert list(wrapper.teachers) == ['teacher0', 'own']
    scores = wrapper.student.decode_head.conv_seg.weight
    assert torch.equal(scores, wrapper.teachers['teacher0'].decode_head.conv_seg.weight)
    whole = resolved(cfg)
    assert whole['teacher'][0]['checkpoint'] == str(run / 'best_mIoU_iter_4.pth')
    assert whole['student']['type'] == 'EncoderDecoder'


def test_a_run_in_python(run: Path, tmp_path: Path) -> None:
    found = model_config(run, str(run), [term()], None, tmp_path)
    assert found['teacher'] == found['student'] == dict(run=str(run))


def test_another_checkpoint_of_the_run(run: Path) -> None:
    spec = parse_network(dict(run=str(run), checkpoint='iter_2.pth'), 'teacher', is_teacher=True)
    assert spec.checkpoint == 'iter_2.pth'
    assert spec.model.backbone.base_channels == 4


@pytest.mark.parametrize(
    ('teacher', 'message'),
    [
        ('nowhere', r'teacher\.run: nowhere: there is no such folder'),
        (dict(run='nowhere', config='a.py'), r'teacher\.run: stands in the place of a config'),
        (dict(run=3), r'teacher\.run: expected the work dir of a run, got 3'),
    ],
)
def test_no_such_run(teacher: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(model(teacher))
