from __future__ import annotations

import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from builders import (
    batch,
    build,
    gradients,
    resnet,
    same_tensors,
    save_weights,
    sgd,
    term,
    wrapper_config,
)
from torch import Tensor, nn

from mmseg_kd.errors import ConfigError
from mmseg_kd.hooks import GradientConflictHook
from mmseg_kd.hooks.gradient_conflict_hook import measure_gradients


def make_wrapper(tmp_path: Path, *terms: dict[str, Any]) -> Any:
    teacher = resnet(8)
    checkpoint = save_weights(teacher, tmp_path / 'teacher.pth')
    return build(wrapper_config(resnet(4, dropout=0), teacher, checkpoint, *terms))


TERMS = (
    term(weight=2.0),
    term('backbone.layer1', 'backbone.layer1', 'CDLoss'),
    term(name='off', weight=0.0),
)


class Loop:
    """The calls that a runner makes, on batches of its own."""

    def __init__(self, model: Any, *hooks: Any) -> None:
        self.optimiser = sgd(model)
        self.logged: dict[str, list[float]] = {}
        self.steps: list[int] = []
        self.lines: list[str] = []
        self.runner = SimpleNamespace(
            model=model,
            iter=0,
            optim_wrapper=self.optimiser,
            visualizer=self,
            logger=SimpleNamespace(info=self.lines.append),
        )
        self.hooks = hooks
        for hook in hooks:
            hook.before_train(self.runner)

    def step(self) -> None:
        model = self.runner.model
        model.train()
        for hook in self.hooks:
            hook.before_train_iter(self.runner, self.runner.iter)
        model.train_step(batch(seed=self.runner.iter), self.optimiser)
        for hook in self.hooks:
            hook.after_train_iter(self.runner, self.runner.iter)
        self.runner.iter += 1

    def add_scalars(self, entries: dict[str, float], step: int) -> None:
        """As the visualiser's."""
        self.steps.append(step)
        for key, value in entries.items():
            self.logged.setdefault(key.removeprefix('angle.'), []).append(value)


def test_angles_of_known_gradients() -> None:
    x = nn.Parameter(torch.tensor([1.0, 0.0]))
    y = nn.Parameter(torch.tensor([[0.0]]))
    frozen = nn.Parameter(torch.ones(1), requires_grad=False)
    task = 3 * x[0]
    terms = {
        'same': 5 * x[0],
        'across': x[1] * 2,
        'against': -x[0],
        'between': x[0] + x[1],
        'elsewhere': y.sum(),
        'none': (x * 0).sum(),
    }
    found = measure_gradients(task, terms, [x, y, frozen])
    angles = found.angles
    assert math.isnan(angles.pop('none'))
    expected = dict(same=0, across=90, against=180, between=45, elsewhere=90)
    assert angles == pytest.approx(expected, abs=0.05)
    norms = dict(same=5, across=2, against=1, between=2**0.5, elsewhere=1, none=0)
    assert (found.task_norm, found.norms) == (3, pytest.approx(norms))
    # The graphs are still there.
    (task + terms['between']).backward()
    assert x.grad is not None


def flat(found: dict[str, Tensor | None], network: Any) -> Tensor:
    parts = [
        torch.zeros_like(p) if found.get(f'student.{k}') is None else found[f'student.{k}']
        for k, p in network.student.named_parameters()
    ]
    return torch.cat([part.flatten() for part in parts])


def test_angle_is_that_of_separate_backward_passes(tmp_path: Path) -> None:
    wrapper = make_wrapper(tmp_path, *TERMS)
    loop = Loop(wrapper, GradientConflictHook(interval=1))
    state = {k: v.clone() for k, v in wrapper.state_dict().items()}
    loop.step()
    angles = loop.logged
    [line] = loop.lines
    assert re.fullmatch(r'Iter\(train\) \[1\]  angle\.kl: [\d.]+  angle\.cd: [\d.]+', line)
    norms = {f'grad_norm.{name}' for name in ('task_loss', 'kd.kl', 'kd.cd')}
    assert set(angles) == {'kl', 'cd', *norms, 'iter'}

    def of(*terms: dict[str, Any]) -> Tensor:
        alone = make_wrapper(tmp_path, *terms)
        alone.load_state_dict(state, strict=False)
        return flat(gradients(alone, seed=0), alone)

    plain = of()
    assert angles['grad_norm.task_loss'] == [pytest.approx(plain.norm().item(), rel=1e-4)]
    for name, one in (('kl', TERMS[0]), ('cd', TERMS[1])):
        both = of(one)
        cosine = torch.cosine_similarity(plain, both - plain, dim=0).item()
        assert angles[name] == [pytest.approx(math.degrees(math.acos(cosine)), abs=0.1)]
        norm = (both - plain).norm().item()
        assert angles[f'grad_norm.kd.{name}'] == [pytest.approx(norm, rel=1e-3)]


def test_only_every_interval_and_training_is_the_same(tmp_path: Path) -> None:
    with_hook, without = (make_wrapper(tmp_path, *TERMS) for _ in range(2))
    loop = Loop(with_hook, GradientConflictHook(interval=3))
    plain = Loop(without)
    counts = []
    for _ in range(7):
        loop.step()
        plain.step()
        counts.append(len(loop.logged.get('kl', [])))
    assert counts == [0, 0, 1, 1, 1, 2, 2]
    assert loop.steps == [3, 6]
    assert same_tensors(with_hook.state_dict(), without.state_dict())
    assert with_hook.loss_observer is None


def test_a_term_without_gradient_has_no_angle() -> None:
    x = nn.Parameter(torch.ones(2))
    found = measure_gradients(x.sum(), {'constant': torch.ones(())}, [x])
    assert math.isnan(found.angles['constant'])
    assert found.norms == dict(constant=0)


def test_recomputed_activations_are_refused(tmp_path: Path) -> None:
    wrapper = make_wrapper(tmp_path, *TERMS)
    wrapper.student.backbone.layer1[0].with_cp = True
    with pytest.raises(ConfigError, match=r"'backbone\.layer1\.0' does; set with_cp=False"):
        Loop(wrapper, GradientConflictHook())


def test_a_plain_model_is_refused() -> None:
    with pytest.raises(ConfigError, match='expected a DistillationWrapper as model, got Linear'):
        Loop(nn.Linear(1, 1), GradientConflictHook())


def test_wrong_interval() -> None:
    for interval in (0, 2.5, '5', True):
        with pytest.raises(ValueError, match='interval must be a whole number >= 1, got'):
            GradientConflictHook(interval=interval)  # type: ignore[arg-type]
