"""What a long run must not gather: tensors, modules, hook handles, open files, memory."""

from __future__ import annotations

import gc
import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import batch, build, mit, resnet, save_weights, sgd, term
from everything import write_everything
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from mmseg_kd.cli import train
from mmseg_kd.engine import training
from mmseg_kd.engine.runner import build_runner

HOOKS = ('_forward_hooks', '_forward_pre_hooks', '_backward_hooks', '_backward_pre_hooks')
MIB = 2**20


@pytest.fixture(autouse=True)
def start_of_the_count() -> None:
    """Leave out what was there before the test, which makes the counts fast."""
    gc.collect()
    gc.freeze()


@dataclass(frozen=True)
class Held:
    """What this process holds since then."""

    tensors: int
    modules: int
    handles: int
    files: int
    memory: int  # bytes


def held() -> Held:
    """Count it."""
    gc.collect()
    everything = gc.get_objects()
    # Not isinstance(), which would ask objects that answer with a warning.
    tensors = sum(issubclass(type(x), torch.Tensor) for x in everything)
    modules = [x for x in everything if issubclass(type(x), nn.Module)]
    handles = sum(len(getattr(module, name)) for module in modules for name in HOOKS)
    files = len(os.listdir('/proc/self/fd'))
    pages = int(Path('/proc/self/statm').read_text(encoding='ascii').split()[1])
    return Held(tensors, len(modules), handles, files, pages * os.sysconf('SC_PAGE_SIZE'))


def assert_flat(before: Held, after: Held, tensors: int = 0, memory: int = 8 * MIB) -> None:
    """See that nothing has grown, but for `tensors` and `memory` that come and go."""
    assert after.tensors <= before.tensors + tensors, (before, after)
    assert after.modules <= before.modules, (before, after)
    assert after.handles <= before.handles, (before, after)
    assert after.files <= before.files, (before, after)
    assert after.memory <= before.memory + memory, (before, after)


def test_a_leak_is_seen() -> None:
    before = held()
    tensor = torch.ones(1)
    # Of its own, where tensors may lie in memory that was held and free before.
    block = mmap.mmap(-1, 16 * MIB)
    np.frombuffer(block, np.uint8)[:] = 1
    module = nn.Linear(1, 1)
    module.register_forward_hook(lambda *_: None)
    with open(__file__, encoding='utf-8'):
        after = held()
    assert (after.tensors, after.modules) == (before.tensors + 3, before.modules + 1)
    assert (after.handles, after.files) == (before.handles + 1, before.files + 1)
    assert after.memory >= before.memory + 8 * MIB
    assert tensor.numel() == 1  # it was there until now


class Watch(Hook):
    """Counts what is held, now and then."""

    priority = 'LOWEST'

    def __init__(self, interval: int) -> None:
        self.interval = interval
        self.found: list[Held] = []

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        if self.every_n_train_iters(runner, self.interval):
            self.found.append(held())


@pytest.mark.parametrize('steps', [90, pytest.param(1000, marks=pytest.mark.soak)])
def test_a_run_with_all_hooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    watch = Watch(interval=steps // 3)

    def build_with_watch(cfg: Config, *args: Any) -> Runner:
        runner = build_runner(cfg, *args)
        runner.register_hook(watch)
        return runner

    monkeypatch.setattr(training, 'build_runner', build_with_watch)
    options = [f'train_cfg.max_iters={steps}', f'param_scheduler.1.end={steps}']
    options += [f'visualizer.name={tmp_path}', 'model.distillation.1.schedule.end=1000000']
    config = str(write_everything(tmp_path))
    assert train.main([config, '--cfg-options', *options]) == 0
    first, *_, last = watch.found
    assert len(watch.found) == 3
    assert_flat(first, last)


def make(tmp_path: Path) -> Callable[[], Any]:
    """A function that builds a wrapper with two teachers and a connector."""
    networks = [resnet(8), mit(16)]
    teachers = [
        {**network, 'checkpoint': save_weights(network, tmp_path / f'{index}.pth')}
        for index, network in enumerate(networks)
    ]
    layer = 'backbone.layer1'
    model = dict(
        type='DistillationWrapper',
        student=resnet(4),
        teacher=teachers,
        distillation=[
            term(teacher=[0, 1], loss=dict(type='CGDLoss', group_size=2)),
            term(layer, layer, 'CDLoss', teacher=0),
        ],
    )
    return lambda: build(model)


@pytest.mark.parametrize('count', [10, pytest.param(500, marks=pytest.mark.soak)])
def test_building_again_and_again(tmp_path: Path, count: int) -> None:
    make_wrapper = make(tmp_path)
    for _ in range(3):
        make_wrapper()
    before = held()
    for _ in range(count):
        make_wrapper()
    assert_flat(before, held())


class Broken(RuntimeError):
    """What a layer raises here."""


def fail(*_: Any) -> None:
    raise Broken


@pytest.mark.parametrize('side', ['student', 'teacher'])
def test_exceptions_in_the_middle_of_a_forward(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: str
) -> None:
    wrapper = make(tmp_path)()
    optimiser = sgd(wrapper)

    def step() -> None:
        wrapper.train_step(batch(), optimiser)

    for _ in range(2):
        step()
    before = held()
    with monkeypatch.context() as patch:
        # Behind the layers that are tapped first.
        patch.setattr(getattr(wrapper, side).decode_head.conv_seg, 'forward', fail)
        for _ in range(20):
            with pytest.raises(Broken):
                step()
    assert_flat(before, held())
    step()
    assert_flat(before, held())
