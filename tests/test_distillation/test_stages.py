"""Terms one after the other, and the task beside them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import batch, build, fcn_head, gradients, resnet, save_weights, sgd, term
from torch import Tensor

from mmseg_kd.errors import ManyErrors
from mmseg_kd.hooks.gradient_conflict_hook import measure_gradients

SetIteration = Callable[[int], None]
LAYER = 'backbone.layer2'
FEATURES = term(LAYER, LAYER, 'CDLoss', name='features', schedule=dict(type='Jump', end=2))
LOGITS = term(name='logits', schedule=dict(type='Jump', begin=2))


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Any]:
    teacher = {**resnet(8), 'checkpoint': save_weights(resnet(8), tmp_path / 'teacher.pth')}

    def build_wrapper(*terms: Any, student: Any = None, **changes: Any) -> Any:
        return build(
            dict(
                type='DistillationWrapper',
                student=student or resnet(4, dropout=0.0),
                teacher=teacher,
                distillation=list(terms),
                **changes,
            )
        )

    return build_wrapper


def log_of(wrapper: Any) -> dict[str, float]:
    wrapper.train()
    return {k: v.item() for k, v in wrapper.train_step(batch(), sgd(wrapper)).items()}


def test_features_first_and_logits_later(make: Any, at_iteration: SetIteration) -> None:
    wrapper = make(FEATURES, LOGITS)
    for iteration in range(4):
        at_iteration(iteration)
        log = log_of(wrapper)
        assert (log['kd.features'] > 0) == (iteration < 2)
        assert (log['kd.logits'] > 0) == (iteration >= 2)


def test_terms_alone_at_first(
    make: Any, at_iteration: SetIteration, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapper = make(FEATURES, LOGITS, task_schedule=dict(type='Jump', begin=2))
    computed = []
    loss = wrapper.student.loss
    monkeypatch.setattr(
        wrapper.student, 'loss', lambda *args: computed.append(args) or loss(*args), raising=True
    )
    for iteration in range(4):
        at_iteration(iteration)
        log = log_of(wrapper)
        is_on = iteration >= 2
        assert bool(computed) == is_on
        assert log['task_weight'] == float(is_on)
        assert ('task_loss' in log) == ('decode.loss_ce' in log) == is_on
        parts = log['kd.features'] + log['kd.logits'] + log.get('task_loss', 0.0)
        assert log['loss'] == pytest.approx(parts)


def test_gradient_is_the_terms_alone(make: Any) -> None:
    wrapper = make(term(LAYER, LAYER, 'CDLoss'), task_weight=0.0)
    found = gradients(wrapper)
    # A gradient of zero, and not none, for what no term reaches: DDP waits for it.
    assert all(gradient is not None for gradient in found.values())
    reached = {name for name, gradient in found.items() if gradient.any()}
    assert reached
    assert not any('decode_head' in name for name in reached)
    alone = make(term(LAYER, LAYER, 'CDLoss'))
    data = alone.data_preprocessor(batch(), training=True)
    torch.manual_seed(3)
    alone.train()(**data, mode='loss')['kd.cd'].backward()
    for name, parameter in alone.named_parameters():
        expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(found[name], expected)


def test_auxiliary_heads_run_where_they_are_tapped(make: Any) -> None:
    student = resnet(4, auxiliary_head=fcn_head(4, 0))
    wrapper = make(term('auxiliary_head.conv_seg'), student=student, task_weight=0)
    assert gradients(wrapper)['student.auxiliary_head.conv_seg.weight'].any()


def test_a_share_of_the_task(make: Any) -> None:
    def gradient(weight: float) -> Tensor:
        wrapper = make(term(weight=0.0), task_weight=weight)
        found = gradients(wrapper)['student.decode_head.conv_seg.weight']
        assert found is not None
        return found

    torch.testing.assert_close(gradient(0.25), 0.25 * gradient(1.0))
    log = log_of(make(term(), task_weight=0.5))
    # What the student logs, and the task loss, are without the weight.
    assert log['task_loss'] == pytest.approx(log['decode.loss_ce'])
    assert log['loss'] == pytest.approx(0.5 * log['task_loss'] + log['kd.kl'])
    assert 'task_weight' not in log_of(make(term()))


def test_angles_are_measured_where_there_is_a_task(make: Any) -> None:
    seen = []
    for weight in (0.0, 1.0):
        wrapper = make(term(), task_weight=weight)
        wrapper.loss_observer = lambda task, terms, own=wrapper: seen.append(
            measure_gradients(task, terms, list(own.student.parameters()))
        )
        log_of(wrapper)
    assert len(seen) == 1


def test_what_a_weight_may_be(make: Any) -> None:
    schedules = [dict(type='Jmp'), dict(type='Jump', begin=-1)]
    with pytest.raises(ManyErrors) as caught:
        make(term(), task_weight=-1, task_schedule=schedules)
    text = str(caught.value)
    assert 'task_weight: expected a finite number >= 0, got -1' in text
    assert "task_schedule[0]: there is no schedule 'Jmp'; nearest: Jump" in text
    assert 'task_schedule[1]: Jump: expected a whole number begin >= 0' in text
