from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from builders import batch, build, resnet, same_tensors, save_weights, term, wrapper_config
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import init_default_scope
from torch import Tensor, distributed, nn
from training_runs import forked_ranks

from mmseg_kd.errors import ConfigError, NonFiniteError
from mmseg_kd.hooks import IterationSeedHook, NonFiniteHook
from mmseg_kd.hooks.non_finite_layers import (
    has_non_finite,
    last_non_finite_gradient,
    watching,
)


class ScaledOptimWrapper(OptimWrapper):
    """With a loss scaler, as mixed precision has one, on the CPU."""

    def __init__(self, scale: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.loss_scaler = torch.amp.GradScaler('cpu', init_scale=scale, backoff_factor=2**-60)

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        self.loss_scaler.scale(loss).backward(**kwargs)
        self._inner_count += 1

    def step(self, **kwargs: Any) -> None:
        self.loss_scaler.step(self.optimizer, **kwargs)
        self.loss_scaler.update()


def make_wrapper(folder: Path, *terms: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    teacher = resnet(8)
    checkpoint = save_weights(teacher, folder / 'teacher.pth')
    return build(wrapper_config(resnet(4), teacher, checkpoint, *(terms or (term(),))))


def test_several_optimisers_are_not_watched() -> None:
    warnings: list[str] = []
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    runner: Any = SimpleNamespace(
        optim_wrapper=OptimWrapperDict(one=OptimWrapper(optimizer)),
        logger=SimpleNamespace(warning=warnings.append),
        iter=0,
    )
    hook = NonFiniteHook()
    hook.before_train(runner)
    for iteration in range(3):
        hook.before_train_iter(runner, iteration, good(iteration))
        hook.after_train_iter(runner, iteration, outputs=dict(loss=torch.tensor(1.0)))
    assert hook._batches == []  # none are kept for a step that is not seen
    assert ['not watched' in one for one in warnings] == [True]


def good(iteration: int, rank: int = 0) -> dict[str, Any]:
    data = batch(seed=10 * iteration + rank)
    for number, sample in enumerate(data['data_samples']):
        sample.set_metainfo(dict(img_path=f'rank {rank}/it {iteration}/ä {number}.png'))
    return data


def bad(iteration: int, rank: int = 0) -> dict[str, Any]:
    data = good(iteration, rank)
    data['inputs'] = [image.float() for image in data['inputs']]
    data['inputs'][1][0, 3, 3] = torch.nan
    return data


class Loop:
    """The calls that a runner makes."""

    def __init__(
        self,
        folder: Path,
        hook: NonFiniteHook,
        model: Any,
        accumulate: int = 1,
        scale: float | None = None,
        fixed: bool = False,
    ) -> None:
        network = getattr(model, 'module', model)
        optimiser = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
        options: dict[str, Any] = dict(optimizer=optimiser, accumulative_counts=accumulate)
        if scale is None:
            self.optim_wrapper = OptimWrapper(**options)
        else:
            self.optim_wrapper = ScaledOptimWrapper(scale, **options)
            # As AmpOptimWrapper keeps a number of its argument loss_scale.
            self.optim_wrapper._scale_update_param = scale if fixed else None
        self.lines: list[str] = []
        self.hooks: list[Hook] = [IterationSeedHook(), hook]
        self.hook = hook
        self.folder = folder
        self.runner = SimpleNamespace(
            model=model,
            iter=0,
            seed=0,
            hooks=self.hooks,
            optim_wrapper=self.optim_wrapper,
            work_dir=str(folder),
            message_hub=MessageHub(f'{folder}'),
            logger=SimpleNamespace(warning=self.lines.append),
        )
        hook.before_train(self.runner)

    def step(self, data: dict[str, Any]) -> dict[str, Tensor]:
        model = self.runner.model
        model.train()
        for hook in self.hooks:
            hook.before_train_iter(self.runner, 0, data)
        outputs: dict[str, Tensor] = model.train_step(data, self.optim_wrapper)
        self.hook.after_train_iter(self.runner, 0, data, outputs)
        self.runner.iter += 1
        return outputs

    def state(self) -> dict[str, Any]:
        """Copies of all that a step changes."""
        optimiser = self.optim_wrapper.optimizer.state_dict()['state']
        momenta = {str(k): v['momentum_buffer'].clone() for k, v in optimiser.items()}
        tensors = self.runner.model.state_dict()
        return {k: v.clone() for k, v in {**tensors, **momenta}.items()}


def written(folder: Path) -> list[dict[str, Any]]:
    """The entries of the file with the bad batches."""
    lines = (folder / 'non_finite.jsonl').read_text(encoding='utf-8').splitlines()
    return [json.loads(line) for line in lines]


def test_a_bad_step_changes_nothing(tmp_path: Path) -> None:
    loop = Loop(tmp_path, NonFiniteHook(), make_wrapper(tmp_path))
    loop.step(good(0))
    before = loop.state()
    assert not loop.step(bad(1))['loss'].isfinite()
    assert same_tensors(before, loop.state())
    assert loop.step(good(2))['loss'].isfinite()
    assert not same_tensors(before, loop.state())
    (line,) = loop.lines
    assert line.startswith('Iteration 2: ')
    assert 'decode.loss_ce is nan' in line
    (name,) = loop.runner.model.terms
    assert f'kd.{name} is nan' in line
    assert 'first in the images' in line
    assert '(1 in a row, 1 in all)' in line
    (entry,) = written(tmp_path)
    assert entry['iteration'] == 2
    assert entry['images'] == ['rank 0/it 1/ä 0.png', 'rank 0/it 1/ä 1.png']


def test_a_teacher_that_is_an_average_stays_too(tmp_path: Path) -> None:
    cfg = wrapper_config(resnet(4), resnet(4), '', term())
    cfg['teacher'] = dict(type='EMATeacher')
    loop = Loop(tmp_path, NonFiniteHook(), build(cfg))
    loop.step(good(0))
    before = loop.state()
    assert any('averaged' in name for name in before)
    loop.step(bad(1))
    assert same_tensors(before, loop.state())
    loop.step(good(2))
    assert not same_tensors(before, loop.state())


def test_good_steps_are_those_without_the_hook(tmp_path: Path) -> None:
    loop = Loop(tmp_path, NonFiniteHook(), make_wrapper(tmp_path))
    plain = make_wrapper(tmp_path)
    optimiser = OptimWrapper(torch.optim.SGD(plain.parameters(), lr=0.01, momentum=0.9))
    runner = SimpleNamespace(seed=0, iter=0)
    for iteration in range(3):
        loop.step(good(iteration))
        runner.iter = iteration
        IterationSeedHook().before_train_iter(runner, 0)
        plain.train().train_step(good(iteration), optimiser)
    assert same_tensors(plain.state_dict(), loop.runner.model.state_dict())
    assert not loop.lines


def test_stop(tmp_path: Path) -> None:
    loop = Loop(tmp_path, NonFiniteHook(policy='stop'), make_wrapper(tmp_path))
    loop.step(good(0))
    before = loop.state()
    with pytest.raises(NonFiniteError, match=r"Iteration 2: .* is nan.*policy='stop'.*jsonl"):
        loop.step(bad(1))
    assert same_tensors(before, loop.state())


def test_too_many_in_a_row(tmp_path: Path) -> None:
    loop = Loop(tmp_path, NonFiniteHook(limit=2), make_wrapper(tmp_path))
    for iteration, data in enumerate((good, bad, good, bad)):
        loop.step(data(iteration))
    with pytest.raises(NonFiniteError, match=r'2\. step in a row'):
        loop.step(bad(4))
    assert loop.runner.message_hub.runtime_info['skipped_steps'] == 3


def test_the_layer_is_named(tmp_path: Path) -> None:
    wrapper = make_wrapper(tmp_path)
    loop = Loop(tmp_path, NonFiniteHook(), wrapper)
    layer = wrapper.student.backbone.layer2[0].conv1
    with torch.no_grad():
        layer.weight[0, 0, 0, 0] = torch.inf
    loop.step(good(0))
    assert 'first in student.backbone.layer2.0.conv1' in loop.lines[0]
    assert not any(module._forward_hooks for module in wrapper.modules())


def test_the_teachers_layer_is_named(tmp_path: Path) -> None:
    wrapper = make_wrapper(tmp_path)
    with torch.no_grad():
        wrapper.teacher.backbone.layer1[0].conv1.weight[0, 0, 0, 0] = torch.inf
    loop = Loop(tmp_path, NonFiniteHook(), wrapper)
    loop.step(good(0))
    assert 'first in teacher.backbone.layer1.0.conv1' in loop.lines[0]
    assert 'decode.loss_ce' not in loop.lines[0]


def test_an_infinite_loss_with_a_finite_gradient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapper = make_wrapper(tmp_path)
    loop = Loop(tmp_path, NonFiniteHook(), wrapper)
    (name,) = wrapper.terms
    own = wrapper.terms[name].loss.forward
    monkeypatch.setattr(wrapper.terms[name].loss, 'forward', lambda *args: own(*args) + torch.inf)
    before = loop.state()
    loop.step(good(0))
    assert same_tensors(before, {k: v for k, v in loop.state().items() if k in before})
    assert f'kd.{name} is inf; first in terms.{name}.loss' in loop.lines[0]


def test_a_gradient_alone(tmp_path: Path) -> None:
    wrapper = make_wrapper(tmp_path)
    loop = Loop(tmp_path, NonFiniteHook(), wrapper)
    before = wrapper.state_dict()
    before = {k: v.clone() for k, v in before.items()}
    weight = wrapper.student.decode_head.convs[0].conv.weight
    handle = weight.register_hook(lambda gradient: gradient * torch.nan)
    loop.step(good(0))
    assert same_tensors(before, wrapper.state_dict())
    assert (
        'gradient is not finite, last in student.decode_head.convs.0.conv.weight' in loop.lines[0]
    )
    handle.remove()


def test_accumulated_gradients(tmp_path: Path) -> None:
    loop = Loop(tmp_path, NonFiniteHook(), make_wrapper(tmp_path), accumulate=2)
    for iteration in range(2):
        loop.step(good(iteration))
    before = loop.state()
    loop.step(bad(2))
    assert not loop.lines
    loop.step(good(3))
    assert same_tensors(before, loop.state())
    assert [entry['iteration'] for entry in written(tmp_path)] == [3]
    for iteration in (4, 5):
        loop.step(good(iteration))
    assert not same_tensors(before, loop.state())


class TestLossScaler:
    def test_a_scale_that_was_too_large_is_not_counted(self, tmp_path: Path) -> None:
        wrapper = make_wrapper(tmp_path)
        loop = Loop(tmp_path, NonFiniteHook(policy='stop'), wrapper, scale=2.0**127)
        # Infinite with the scale alone.
        wrapper.student.decode_head.conv_seg.weight.register_hook(lambda g: g * 2.0**20)
        before = {k: v.clone() for k, v in loop.runner.model.named_parameters()}
        loop.step(good(0))
        assert loop.optim_wrapper.loss_scaler.get_scale() == 2.0**67
        assert same_tensors(before, dict(loop.runner.model.named_parameters()))
        loop.step(good(1))
        assert not same_tensors(before, dict(loop.runner.model.named_parameters()))
        assert not loop.lines

    def test_a_bad_loss_is_counted_and_leaves_the_scale(self, tmp_path: Path) -> None:
        loop = Loop(tmp_path, NonFiniteHook(), make_wrapper(tmp_path), scale=8.0)
        loop.step(bad(0))
        assert len(loop.lines) == 1
        assert loop.optim_wrapper.loss_scaler.get_scale() == 8.0
        loop.step(good(1))
        assert loop.hook.in_a_row == 0

    def test_a_fixed_scale_helps_never(self, tmp_path: Path) -> None:
        wrapper = make_wrapper(tmp_path)
        loop = Loop(tmp_path, NonFiniteHook(), wrapper, scale=512.0, fixed=True)
        wrapper.student.decode_head.conv_seg.weight.register_hook(lambda g: g * torch.nan)
        loop.step(good(0))
        assert len(loop.lines) == 1 and loop.hook.in_a_row == 1

    def test_a_gradient_that_no_scale_helps_is_counted(self, tmp_path: Path) -> None:
        wrapper = make_wrapper(tmp_path)
        loop = Loop(tmp_path, NonFiniteHook(), wrapper, scale=2.0**60)
        wrapper.student.decode_head.conv_seg.weight.register_hook(lambda g: g * torch.nan)
        loop.step(good(0))
        loop.step(good(1))
        assert not loop.lines
        loop.step(good(2))
        assert len(loop.lines) == 1


def test_values_out_of_range() -> None:
    with pytest.raises(ConfigError, match="'skip' or 'stop', got 'ignore'"):
        NonFiniteHook(policy='ignore')  # type: ignore[arg-type]
    for limit in (0, 1.5, True):
        with pytest.raises(ConfigError, match='integer >= 1'):
            NonFiniteHook(limit=limit)  # type: ignore[arg-type]


def test_what_counts_as_not_finite() -> None:
    assert has_non_finite({'a': [torch.zeros(2), (torch.tensor([1.0, torch.inf]),)]})
    assert not has_non_finite([torch.zeros(2), torch.arange(3), None, 'nan'])


def test_first_layer_and_last_gradient() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    with watching({'': network}) as origin:
        network(torch.ones(1, 2))
    assert origin.layer is None
    with torch.no_grad():
        network[1][0].bias.fill_(torch.nan)
    with watching({'net': network}) as origin:
        network(torch.ones(1, 2))
    assert origin.layer == 'net.1.0'
    assert last_non_finite_gradient(network.named_parameters()) is None
    network(torch.ones(1, 2)).sum().backward()
    network[0].weight.grad = torch.full((2, 2), torch.nan)
    network[1][0].weight.grad = torch.zeros(2, 2)
    network[1][0].bias.grad = None
    network[0].bias.grad = torch.zeros(2)
    assert last_non_finite_gradient(network.named_parameters()) == '0.weight'


def _train_rank(rank: int, folder: Path) -> None:
    init_default_scope('mmseg')
    distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2
    )
    own = folder / str(rank)
    own.mkdir()
    model = MMDistributedDataParallel(make_wrapper(own))
    loop = Loop(folder, NonFiniteHook(), model)
    loop.step(good(0, rank))
    before = loop.state()
    loop.step(bad(1, rank) if rank == 1 else good(1, rank))
    is_unchanged = same_tensors(before, loop.state())
    loop.step(good(2, rank))
    torch.save((is_unchanged, loop.lines, dict(model.named_parameters())), own / 'found.pth')
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_skip_together(tmp_path: Path) -> None:
    with forked_ranks(_train_rank, tmp_path):
        pass
    found = [torch.load(tmp_path / str(rank) / 'found.pth') for rank in range(2)]
    for is_unchanged, (line,), parameters in found:
        assert is_unchanged
        assert same_tensors(parameters, found[0][2])
        assert line.startswith('Iteration 2, rank 1: ')
        assert 'first in the images' in line
    (entry,) = written(tmp_path)
    assert entry['images'][0] == 'rank 1/it 1/ä 0.png'
