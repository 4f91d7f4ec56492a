from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.hooks import LoggerHook
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import nn
from training_runs import tensors, train_to_the_end, variant, write_project

from mmseg_kd.hooks import GradientNormHook


def runner_with(wrapper: Any, interval: int = 4, window: int = 2, batches: int = 8) -> Any:
    """What the hook sees of a runner."""
    return SimpleNamespace(
        optim_wrapper=wrapper,
        train_dataloader=range(batches),
        hooks=[LoggerHook(interval=interval)],
        log_processor=SimpleNamespace(window_size=window),
        message_hub=MessageHub.get_instance('gradient_norm'),
    )


def sgd(*values: float, **settings: Any) -> OptimWrapper:
    """An optimiser of parameters whose gradients are `values`."""
    parameters = [nn.Parameter(torch.zeros(1)) for _ in values]
    for parameter, value in zip(parameters, values, strict=True):
        parameter.grad = torch.tensor([value])
    return OptimWrapper(torch.optim.SGD(parameters, lr=0.1), **settings)


def measured(runner: Any, prefix: str = '') -> list[float]:
    history = runner.message_hub.log_scalars.get(f'train/{prefix}grad_norm')
    return [] if history is None else history.data[0].tolist()


def test_the_norm_in_the_iterations_of_a_log_line() -> None:
    wrapper = sgd(3.0, 4.0)
    runner = runner_with(wrapper)
    hook = GradientNormHook()
    hook.before_train(runner)
    counts = []
    for iteration in range(8):
        hook.before_train_iter(runner, iteration)
        wrapper.step()
        counts.append(len(measured(runner)))
    assert counts == [0, 0, 1, 2, 2, 2, 3, 4]
    assert measured(runner) == [5.0] * 4


@pytest.mark.parametrize(
    ('batches', 'ignore_last', 'counts'),
    [(3, True, [0, 1, 2]), (6, True, [0, 0, 1, 2, 2, 2]), (6, False, [0, 0, 1, 2, 3, 4])],
)
def test_the_line_at_the_end_of_an_epoch(
    batches: int, ignore_last: bool, counts: list[int]
) -> None:
    wrapper = sgd(3.0, 4.0)
    runner = runner_with(wrapper, batches=batches)
    runner.hooks[0].ignore_last = ignore_last
    hook = GradientNormHook()
    hook.before_train(runner)
    found = []
    for iteration in range(batches):
        hook.before_train_iter(runner, iteration)
        wrapper.step()
        found.append(len(measured(runner)))
    assert found == counts


def test_scaled_gradients_of_a_fused_optimiser() -> None:
    wrapper = sgd(3.0, 4.0)
    wrapper.optimizer.grad_scale = torch.tensor(4.0)
    runner = runner_with(wrapper, interval=1)
    hook = GradientNormHook()
    hook.before_train(runner)
    hook.before_train_iter(runner, 0)
    hook._measure('train/grad_norm', wrapper.optimizer)
    assert measured(runner) == [1.25]


def test_clipped_gradients_are_the_hosts_to_measure() -> None:
    wrapper = sgd(3.0, 4.0, clip_grad=dict(max_norm=1.0))
    runner = runner_with(wrapper, interval=1)
    hook = GradientNormHook()
    hook.before_train(runner)
    hook.before_train_iter(runner, 0)
    assert not wrapper.optimizer._optimizer_step_pre_hooks


def test_without_a_log_nothing_is_measured() -> None:
    wrapper = sgd(3.0)
    runner = runner_with(wrapper)
    runner.hooks = []
    GradientNormHook().before_train(runner)
    assert not wrapper.optimizer._optimizer_step_pre_hooks


def test_several_optimisers_have_an_entry_each() -> None:
    wrappers = dict(a=sgd(1.0), b=sgd(3.0, 4.0))
    runner = runner_with(OptimWrapperDict(**wrappers), interval=1)
    hook = GradientNormHook()
    hook.before_train(runner)
    hook.before_train_iter(runner, 0)
    for wrapper in wrappers.values():
        wrapper.step()
    assert (measured(runner, 'a.'), measured(runner, 'b.')) == ([1.0], [5.0])


def test_it_is_the_norm_that_clipping_logs(tmp_path: Path) -> None:
    """And it leaves the training as it is: a bound that is never reached changes nothing either."""
    config = write_project(tmp_path)
    clipped = variant(config, 'clipped.py', "\noptim_wrapper['clip_grad'] = dict(max_norm=1e9)\n")
    runs = []
    for name, one in (('plain', config), ('clipped', clipped)):
        folder = tmp_path / name
        train_to_the_end([one, '--work-dir', str(folder)], tmp_path / f'{name}.log')
        [scalars] = folder.glob('*/vis_data/scalars.json')
        lines = [json.loads(line) for line in scalars.read_text(encoding='utf-8').splitlines()]
        norms = {line['step']: line['grad_norm'] for line in lines if 'grad_norm' in line}
        runs.append((norms, tensors(folder / 'iter_8.pth')))
    (norms, weights), (expected, reference) = runs
    assert list(norms) == list(range(1, 9))
    assert norms == pytest.approx(expected, rel=1e-6)
    for key, tensor in weights.items():
        torch.testing.assert_close(tensor, reference[key], msg=key)
