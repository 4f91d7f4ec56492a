"""Two ranks give the gradients of one process with both ranks' images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from builders import GN, KeepsGradients, batch, build, resnet, save_weights, term, wrapper_config
from mmengine.logging import MessageHub
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import init_default_scope
from torch import Tensor, distributed, nn
from training_runs import forked_ranks, free_port

from mmseg_kd.hooks import RankZeroBuffersHook
from mmseg_kd.hooks.gradient_conflict_hook import measure_gradients
from mmseg_kd.teacher.averaged import Averaged

RANKS = 2
IMAGES = 2  # on each rank
# In float64 the order of sums is all that differs.
TOLERANCE = dict(rtol=1e-9, atol=1e-12)
# Degrees, from gradients in float32.
ANGLE = dict(rtol=0.0, atol=0.1)


def config(checkpoint: str, teacher: dict[str, Any]) -> dict[str, Any]:
    """Three losses on logits and features; the last term begins at iteration 1."""
    features = 'backbone.layer1'
    return wrapper_config(
        resnet(4, norm=GN, dropout=0.0),
        teacher,
        checkpoint,
        term(loss='KLLoss', weight=2.0),
        term(loss=dict(type='CGDLoss', group_size=2, tau=2.0, shuffle_interval=1), weight=3.0),
        term(features, features, 'CDLoss', weight=10.0),
        term(features, features, 'CDLoss', name='auto', weight=dict(conflict='project')),
        term(features, features, 'CDLoss', name='late', schedule=dict(type='Jump', begin=1)),
    )


def step(model: nn.Module, iteration: int, rank: int | None) -> dict[str, Tensor]:
    """Gradients and angles of one iteration on the images of one rank, or of all (None)."""
    MessageHub.get_current_instance().update_info('iter', iteration)
    data = batch(RANKS * IMAGES, seed=iteration)
    if rank is not None:
        own = slice(rank * IMAGES, (rank + 1) * IMAGES)
        data = {key: value[own] for key, value in data.items()}
    model.train()
    model.zero_grad()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    wrapper = getattr(model, 'module', model)
    angles: dict[str, float] = {}

    def measure(task: Tensor, terms: dict[str, Tensor]) -> None:
        angles.update(measure_gradients(task, terms, list(wrapper.student.parameters())).angles)

    wrapper.loss_observer = measure
    model.train_step(data, KeepsGradients(optimiser))
    found = {f'angle.{name}': torch.tensor(angle) for name, angle in angles.items()}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        found[name.removeprefix('module.')] = parameter.grad.clone()
    optimiser.step()
    return found


def average_of(rank: int) -> dict[str, Tensor]:
    """An average of one network whose statistics are the rank's own, after two updates."""
    source = build(resnet(4), seed=0)
    average = Averaged(source, momentum=0.25)
    for update in range(2):
        for name, buffer in source.named_buffers():
            if name.endswith('running_mean'):
                buffer.fill_(update + 10 * rank)
        average.update(source)
    return average.state_dict()


def run_rank(rank: int, port: int, cfg: dict[str, Any], folder: str) -> None:
    """What each process does."""
    init_default_scope('mmseg')
    distributed.init_process_group(
        'gloo', init_method=f'tcp://127.0.0.1:{port}', rank=rank, world_size=RANKS
    )
    # Ranks that start from other weights get those of rank 0.
    model = MMDistributedDataParallel(build(cfg, seed=rank).double(), broadcast_buffers=False)
    found = [step(model, iteration, rank) for iteration in range(3)]
    teacher = model.module.teacher.state_dict()
    statistics = []
    for moment in ('before_train', 'before_val'):
        model.register_buffer('statistic', torch.tensor(rank + 5))
        getattr(RankZeroBuffersHook(), moment)(SimpleNamespace(model=model))
        statistics.append(int(model.statistic))
    torch.save((found, teacher, statistics, average_of(rank)), Path(folder) / f'{rank}.pth')
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_give_the_gradients_of_one_process(
    tmp_path: Path, at_iteration: Callable[[int], None]
) -> None:
    at_iteration(0)  # what `step` sets here is undone after the test
    teacher = resnet(8)
    cfg = config(save_weights(teacher, tmp_path / 'teacher.pth'), teacher)
    with forked_ranks(run_rank, free_port(), cfg, str(tmp_path), ranks=RANKS):
        alone = build(cfg, seed=0).double()
        expected = [step(alone, iteration, None) for iteration in range(3)]
    for rank in range(RANKS):
        found, weights, statistics, average = torch.load(tmp_path / f'{rank}.pth')
        assert statistics == [5, 5]
        means = [value for key, value in average.items() if key.endswith('running_mean')]
        assert means
        assert all((mean == 0.5).all() for mean in means)  # of 0 and 1, as rank 0 had them
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.keys() == theirs.keys()
            for name, gradient in theirs.items():
                tolerance = ANGLE if name.startswith('angle.') else TOLERANCE
                torch.testing.assert_close(ours[name], gradient, **tolerance)
        for key, value in alone.teacher.state_dict().items():
            assert torch.equal(weights[key], value)
    # The term that begins late has a gradient of zero before, and one after.
    late = 'terms.late.connector.conv.weight'
    assert [bool(gradient[late].any()) for gradient in expected] == [False, True, True]
