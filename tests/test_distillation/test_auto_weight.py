from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import (
    batch,
    build,
    mit,
    resnet,
    same_tensors,
    save_weights,
    sgd,
    term,
    wrapper_config,
)
from torch import nn

from mmseg_kd.distillation import balance, task_loss
from mmseg_kd.distillation.auto_weight import ITERATIONS_PER_BACKWARD, AutoWeight
from mmseg_kd.distillation.gradients import Comparison, compare, gradient
from mmseg_kd.errors import ConfigError
from mmseg_kd.registry import KD_LOSSES
from mmseg_kd.schedules import at_iteration

STAGE = 'backbone.layer1'
SCORES = 'decode_head.conv_seg'


@pytest.fixture
def wrapper(tmp_path: Path) -> Any:
    """Builds a wrapper with terms: the same networks each time."""
    teacher = resnet(8)
    checkpoint = save_weights(teacher, tmp_path / 'teacher.pth')

    def make(*terms: dict[str, Any], **student: Any) -> Any:
        torch.manual_seed(0)
        return build(wrapper_config(resnet(4, dropout=0, **student), teacher, checkpoint, *terms))

    return make


def losses_of(model: Any, seed: int = 0) -> dict[str, Any]:
    model.train()
    data = model.data_preprocessor(batch(seed=seed), True)
    losses: dict[str, Any] = model(**data, mode='loss')
    return losses


def gradients_at(model: Any, layer: str) -> tuple[torch.Tensor, ...]:
    """The gradients of the task and of the terms as weighted, over what a layer puts out."""
    outputs = []
    module = model.student.get_submodule(layer)
    handle = module.register_forward_hook(lambda *a: outputs.append(a[-1]))
    losses = losses_of(model)
    handle.remove()
    task = losses['decode.loss_ce']
    terms = [value for key, value in losses.items() if key.startswith('kd.')]
    return tuple(
        torch.autograd.grad(loss, outputs[0], retain_graph=True)[0].flatten()
        for loss in (task, *terms)
    )


@pytest.mark.parametrize('layer', [SCORES, STAGE])
@pytest.mark.parametrize('weight', ['auto', dict(share=0.25)])
def test_gradient_is_held_at_a_share_of_the_tasks(wrapper: Any, layer: str, weight: Any) -> None:
    task, one = gradients_at(wrapper(term(layer, layer, 'CDLoss', weight=weight)), layer)
    share = 1.0 if weight == 'auto' else 0.25
    assert one.norm().item() == pytest.approx(share * task.norm().item(), rel=1e-4)


def test_weight_is_logged_and_times_the_schedule(wrapper: Any) -> None:
    model = wrapper(term(weight=dict(share=0.5), schedule=dict(type='LinearWarmup', end=10)))
    with at_iteration(0):
        assert losses_of(model)['kd_weight.kl'] == 0
    assert model.terms.kl.auto.measured == 0
    with at_iteration(5):
        logged = losses_of(model)['kd_weight.kl'].item()
    assert logged == pytest.approx(0.5 * 0.5 * model.terms.kl.auto.ratio)


def test_average_of_known_measurements() -> None:
    auto = AutoWeight()
    assert auto.ratio == 0
    auto.take(Comparison(6.0, 2.0, 0.0))
    assert auto.ratio == pytest.approx(3)
    auto.take(Comparison(24.0, 1.0, 0.0))  # 3 ** (1 / 3) * 24 ** (2 / 3)
    assert auto.ratio == pytest.approx(12)
    for nothing in (0.0, math.inf, math.nan):
        auto.take(Comparison(nothing, 1.0, 0.0))
        auto.take(Comparison(1.0, nothing, 0.0))
    assert (auto.measured, auto.ratio) == (2, pytest.approx(12))
    for _ in range(200):
        auto.take(Comparison(1.0, 1.0, 0.0))
    before = auto.ratio
    auto.take(Comparison(math.e, 1.0, 0.0))
    assert math.log(auto.ratio / before) == pytest.approx(0.1, abs=1e-3)


def test_when_it_is_measured() -> None:
    auto = AutoWeight()
    assert auto.is_due(200)
    auto.take(Comparison(1.0, 1.0, 0.0))
    due = []
    for auto.seen in range(1001):
        if auto.is_due(200):
            due.append(auto.seen)
    assert due == [0, 1, 2, 4, 8, 16, 32, 64, 128, 200, 400, 600, 800, 1000]


def test_a_run_measures_seldom_and_task_is_looked_at_once(
    wrapper: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = dict(gradient=0, iterations=0)

    def counted(*args: Any) -> Any:
        counts['gradient'] += 1
        return gradient(*args)

    monkeypatch.setattr(balance, 'gradient', counted)
    model = wrapper(term(weight='auto'), term(STAGE, STAGE, 'CDLoss', weight='auto'))
    for auto in (one.auto for one in model.terms.values()):
        auto.seen, auto.measured = 3 * ITERATIONS_PER_BACKWARD - 2, 1
    found = []
    for _ in range(4):
        losses_of(model)
        found.append(counts['gradient'])
    # One pass for the task and one for each term, in one of these iterations.
    assert found == [0, 0, 3, 3]


def test_training_is_that_of_the_same_weight_as_a_number(wrapper: Any) -> None:
    auto = wrapper(term(weight='auto'))
    losses_of(auto)
    state = auto.terms.kl.auto
    state.seen = 3
    number = wrapper(term(weight=state.ratio))
    number.load_state_dict(auto.state_dict(), strict=False)
    for model in (auto, number):
        optimiser = sgd(model)
        model.train_step(batch(seed=1), optimiser)
    ours = {k: v for k, v in auto.state_dict().items() if not k.endswith('_extra_state')}
    assert same_tensors(ours, number.state_dict())


def test_state_is_in_the_checkpoint_to_the_bit(wrapper: Any) -> None:
    whole, resumed = wrapper(term(weight='auto')), wrapper(term(weight='auto'))
    optimiser = sgd(whole)
    for seed in range(3):
        whole.train_step(batch(seed=seed), optimiser)
    resumed.load_state_dict(whole.state_dict())
    optimisers = [sgd(model) for model in (whole, resumed)]
    for seed in range(3, 6):
        for model, optimiser in zip((whole, resumed), optimisers, strict=True):
            model.train_step(batch(seed=seed), optimiser)
    assert resumed.terms.kl.auto.measured == 4
    assert same_tensors(whole.state_dict(), resumed.state_dict())


def test_without_it_nothing_is_added_to_the_checkpoint(wrapper: Any) -> None:
    assert not any(key.endswith('_extra_state') for key in wrapper(term()).state_dict())


def test_nothing_labelled_means_no_weight(wrapper: Any) -> None:
    model = wrapper(term(weight='auto'))
    model.train()
    data = model.data_preprocessor(batch(), True)
    for sample in data['data_samples']:
        sample.gt_sem_seg.data.fill_(255)
    losses = model(**data, mode='loss')
    assert (losses['kd_weight.kl'], losses['kd.kl']) == (0, 0)
    assert losses_of(model)['kd_weight.kl'] > 0


class Signed(nn.Module):
    """A loss that points with the task of `conflicting` or against it, and 1 of its own."""

    def __init__(self, sign: int) -> None:
        super().__init__()
        self.sign = sign
        self.own = nn.Parameter(torch.ones(()))

    def forward(self, student: Any, teacher: Any, labels: Any) -> Any:
        return self.sign * (student - 1).square().mean() + self.own


@pytest.fixture
def conflicting(wrapper: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Builds a wrapper whose term points with the task (1) or against it (-1)."""

    def by_feat(head: Any, scores: Any, samples: Any) -> dict[str, Any]:
        return {'loss_ce': (scores - 1).square().mean() + 0.3 * scores[:, 0].mean()}

    monkeypatch.setattr(task_loss, '_loss_by_feat', by_feat)
    monkeypatch.setitem(KD_LOSSES._module_dict, 'Signed', Signed)

    def make(sign: int, conflict: str) -> Any:
        weight = dict(share=0.5, conflict=conflict)
        return wrapper(term(loss=dict(type='Signed', sign=sign), name='a', weight=weight))

    return make


def test_conflict(conflicting: Any) -> None:
    found = {}
    values = {}
    for conflict in ('keep', 'project', 'drop'):
        model = conflicting(-1, conflict)
        task, one = gradients_at(model, SCORES)
        found[conflict] = compare(task, one)
        values[conflict] = losses_of(model)['kd.a'].item()
        # What the term itself learns is left alone.
        (own,) = torch.autograd.grad(losses_of(model)['kd.a'], [model.terms.a.loss.own])
        assert own.item() == pytest.approx(0.5 * model.terms.a.auto.ratio)
    assert found['keep'].cosine < -0.9
    assert found['keep'].term_norm == pytest.approx(0.5 * found['keep'].task_norm, rel=1e-4)
    assert found['project'].cosine == pytest.approx(0, abs=1e-3)
    assert 0 < found['project'].term_norm < found['keep'].term_norm
    sine = math.sqrt(1 - found['keep'].cosine ** 2)
    assert found['project'].term_norm == pytest.approx(sine * found['keep'].term_norm, rel=1e-2)
    assert found['drop'].term_norm == pytest.approx(0, abs=1e-6)
    assert values['project'] == pytest.approx(values['keep'], rel=1e-5)
    assert values['drop'] == pytest.approx(values['keep'], rel=1e-5)


def test_a_term_with_the_task_is_left_alone(conflicting: Any) -> None:
    kept, dropped = (gradients_at(conflicting(1, one), SCORES) for one in ('keep', 'drop'))
    assert compare(*kept).cosine > 0.9
    assert torch.equal(kept[1], dropped[1])


# A layer in float32 may have others in half precision behind it, as a LayerNorm has.
@pytest.mark.parametrize('dtype', [torch.float16, torch.float32])
def test_in_half_precision_small_and_large_gradients_are_seen(dtype: torch.dtype) -> None:
    x = torch.ones(4, dtype=dtype, requires_grad=True)
    for factor in (1e-9, 1e2, 6e3):
        found = balance._gradient((x.half().float() * factor).sum(), [x])
        assert found.tolist() == pytest.approx([factor] * 4, rel=1e-2)


def test_layer_changed_in_place_lies_on_the_way(wrapper: Any) -> None:
    # Before ReLU(inplace=True), by both names.
    weights = []
    for layer in ('backbone.stem.1', 'backbone.stem.2:input'):
        model = wrapper(term(layer, layer, 'CDLoss', weight='auto'))
        weights.append(float(losses_of(model)['kd_weight.cd']))
    assert weights[0] == weights[1] > 0


def squares(x: torch.Tensor) -> torch.Tensor:
    return x.square()


def test_what_a_function_makes_is_read_beside_the_way(wrapper: Any) -> None:
    layer = f'{STAGE} | {__name__}:squares'
    with pytest.raises(ConfigError, match=r"weight: 'backbone\.layer1 \| .*' is read beside"):
        wrapper(term(layer, layer, 'CDLoss', weight='auto'))
    assert losses_of(wrapper(term(layer, layer, 'CDLoss')))['kd.cd'] > 0


def test_a_layer_beside_the_way_is_refused(wrapper: Any) -> None:
    head = {**resnet()['decode_head'], 'in_channels': 4, 'in_index': 0}
    tapped = term('auxiliary_head.conv_seg', SCORES, weight='auto')
    model = wrapper(tapped, auxiliary_head=head)
    model.student.auxiliary_head.loss_by_feat = lambda *_: {}
    with pytest.raises(ConfigError, match="the student's own loss does not depend on what 'aux"):
        losses_of(model)
    model = wrapper(tapped, auxiliary_head=head)
    assert losses_of(model)['kd_weight.kl'] > 0


def test_recomputed_activations_are_refused(wrapper: Any) -> None:
    backbone = {**resnet(4)['backbone'], 'with_cp': True}
    with pytest.raises(ConfigError, match=r"as 'backbone' of the student does"):
        wrapper(term(weight='auto'), backbone=backbone)


def test_attention_is_read_beside_the_way(tmp_path: Path) -> None:
    teacher = mit(8)
    values = 'backbone.layers.0.1.0.attn.attn.value'
    cfg = wrapper_config(
        mit(8),
        teacher,
        save_weights(teacher, tmp_path / 'teacher.pth'),
        term(values, values, 'CDLoss', weight='auto'),
    )
    with pytest.raises(ConfigError, match=r"weight: 'backbone\.layers\..*' is read beside"):
        build(cfg)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_mixed_precision_gives_nearly_the_same_weight(wrapper: Any, dtype: torch.dtype) -> None:
    layers = STAGE, STAGE, 'CDLoss'
    exact = losses_of(wrapper(term(*layers, weight='auto')))['kd_weight.cd']
    model = wrapper(term(*layers, weight='auto'))
    with torch.autocast('cpu', dtype):
        found = losses_of(model)['kd_weight.cd']
    assert found == pytest.approx(float(exact), rel=0.05)


class OfTwoLayers(nn.Module):
    """A loss of two layers that points against the task of `conflicting`."""

    layers_per_side = 2

    def forward(self, student: Any, teacher: Any, labels: Any) -> Any:
        return -sum((one - 1).square().mean() for one in student)


def test_what_lies_behind_a_layer_is_no_part_of_its_gradient(
    conflicting: Any, wrapper: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KD_LOSSES._module_dict, 'OfTwoLayers', OfTwoLayers)
    layers = [STAGE, SCORES]
    weight = dict(conflict='drop')
    model = wrapper(term(layers, layers, 'OfTwoLayers', name='two', weight=weight))
    _, one = gradients_at(model, STAGE)
    assert one.norm().item() == pytest.approx(0, abs=1e-6)


def test_where_the_task_has_no_weight_nothing_sets_one(
    wrapper: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match='with task_weight=0 nothing sets the weight'):
        build(
            dict(
                type='DistillationWrapper',
                student=resnet(4),
                teacher=dict(type='EMATeacher'),
                distillation=[term(weight='auto')],
                task_weight=0.0,
            )
        )
    model = wrapper(term(weight='auto'))
    monkeypatch.setattr(balance, 'ITERATIONS_PER_BACKWARD', 2)
    monkeypatch.setattr(model, '_task_loss', lambda losses: (0.0 * losses['decode.loss_ce'], {}))
    with pytest.raises(ConfigError, match='in 4 iterations the loss of the student or of the term'):
        for _ in range(5):
            losses_of(model)


def test_a_misspelt_part_of_attention_is_a_layer_that_is_missing(wrapper: Any) -> None:
    with pytest.raises(ConfigError, match=r"no layer 'backbone\.layr1\.query'"):
        wrapper(term('backbone.layr1.query', SCORES, weight='auto'))
