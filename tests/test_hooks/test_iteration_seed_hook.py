from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from builders import mit, resnet, same_tensors, save_weights, term, write_config, write_dataset
from mmengine.config import Config
from mmengine.logging import MessageHub

from mmseg_kd.cli import train
from mmseg_kd.hooks.iteration_seed_hook import IterationSeedHook, SeededBatches, seed_all

NOISY = """
train_pipeline = [
    *load,
    dict(type='RandomResize', scale=(32, 32), ratio_range=(1.0, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(32, 32)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
train_dataloader['dataset']['pipeline'] = train_pipeline
train_cfg = dict(type='IterBasedTrainLoop', max_iters=6, val_interval=2)
default_hooks['checkpoint'] = dict(type='CheckpointHook', by_epoch=False, interval=3)
"""


@pytest.fixture(autouse=True)
def no_config_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its formatting takes most of the time of runs this short."""
    monkeypatch.setattr(Config, 'pretty_text', '')


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A student with dropout and drop path, and two teachers that take turns."""
    data = write_dataset(tmp_path / 'data', train=5)
    teachers = [
        {**network, 'checkpoint': save_weights(network, tmp_path / f'{index}.pth', seed=index)}
        for index, network in enumerate([resnet(8), mit(16)])
    ]
    model = dict(
        type='DistillationWrapper',
        student=mit(8),
        teacher=teachers,
        distillation=[
            term(
                teacher=[0, 1],
                reduction='random',
                loss=dict(type='CGDLoss', group_size=2, shuffle_interval=2),
                schedule=dict(type='LinearWarmup', end=8),
            )
        ],
    )
    path = write_config(tmp_path, model, data)
    path.write_text(path.read_text(encoding='utf-8') + NOISY, encoding='utf-8')
    return path


def run(config: Path, folder: Path, *options: str, resume: Sequence[str] = ()) -> None:
    """Train into `folder`."""
    # The visualiser, which writes the log, is one for each name in a process.
    options = (f'visualizer.name={folder}', *options)
    command = [str(config), '--work-dir', str(folder), *resume, '--cfg-options', *options]
    assert train.main(command) == 0


def state(folder: Path, iteration: int = 6) -> Any:
    found = torch.load(folder / f'iter_{iteration}.pth', weights_only=False)
    return found['state_dict'] | {
        f'optimizer.{k}.{name}': value
        for k, values in found['optimizer']['state'].items()
        for name, value in values.items()
        if isinstance(value, torch.Tensor)
    }


def log(folder: Path) -> dict[int, dict[str, float]]:
    """What was logged of each iteration, without the times."""
    [path] = folder.glob('*/vis_data/scalars.json')
    rows = [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]
    return {
        row['step']: {k: v for k, v in row.items() if 'time' not in k and k != 'memory'}
        for row in rows
        if 'lr' in row
    }


@pytest.mark.parametrize(('workers', 'seed'), [(0, None), (2, 0)])
def test_a_resumed_run_is_the_same_to_the_bit(
    tmp_path: Path, config: Path, workers: int, seed: int | None
) -> None:
    options = [f'randomness.seed={seed}', f'train_dataloader.num_workers={workers}']
    whole, resumed = tmp_path / 'whole', tmp_path / 'resumed'
    run(config, whole, *options)
    checkpoint = str(whole / 'iter_3.pth')
    # Without the validation that the whole run had on its way to iteration 6.
    options.append('train_cfg.val_interval=1000')
    run(config, resumed, *options, resume=['--resume', checkpoint])
    assert same_tensors(state(whole), state(resumed))
    rows = log(resumed)
    assert set(rows) == {4, 5, 6}
    assert all(rows[step] == log(whole)[step] for step in rows)
    assert len({rows[step]['loss'] for step in rows}) == 3


def test_the_number_of_workers_changes_nothing(tmp_path: Path, config: Path) -> None:
    for workers in (0, 1, 2):
        run(config, tmp_path / str(workers), f'train_dataloader.num_workers={workers}')
    assert same_tensors(state(tmp_path / '0'), state(tmp_path / '1'))
    assert same_tensors(state(tmp_path / '0'), state(tmp_path / '2'))


def test_another_seed_is_another_run(tmp_path: Path, config: Path) -> None:
    for seed in (0, 1):
        run(config, tmp_path / str(seed), f'randomness.seed={seed}')
    assert not same_tensors(state(tmp_path / '0', 3), state(tmp_path / '1', 3))


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_each_seed_gives_its_own_numbers() -> None:
    drawn = []
    for words in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)):
        seed_all(*words)
        drawn.append(draw())
    assert len({value for values in drawn for value in values}) == 12
    seed_all(0, 0, 1)
    assert draw() == drawn[1]


def test_batches_are_seeded_by_their_number() -> None:
    class Noise:
        def __getitem__(self, index: int) -> float:
            return float(np.random.rand())

    first = SeededBatches(Noise(), seed=0, rank=0, start=0)
    batches = [first([0, 1]) for _ in range(4)]
    assert len({value for items in batches for value in items}) == 8
    later = SeededBatches(Noise(), seed=0, rank=0, start=2)
    assert [later([0, 1]) for _ in range(2)] == batches[2:]
    assert SeededBatches(Noise(), seed=0, rank=1, start=0)([0, 1]) != batches[0]


def test_a_data_set_that_makes_whole_batches_keeps_its_way() -> None:
    class Batches:
        def __getitem__(self, index: int) -> float:
            raise NotImplementedError

        def __getitems__(self, indices: list[int]) -> list[float]:
            return [index + float(np.random.rand()) for index in indices]

    first, again = (SeededBatches(Batches(), seed=0, rank=0, start=0)([3, 4]) for _ in range(2))
    assert first == again
    assert [int(value) for value in first] == [3, 4]


class Sampler:
    """A sampler with a seed of its own, as one that skips."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def skip(self, count: int) -> None:
        """Do nothing."""


class Skipping:
    """An iterator that skips what was seen."""

    def __init__(self, loader: Any) -> None:
        """Take nothing from it."""

    def skip_iter(self, count: int) -> None:
        """Do nothing."""


def loop(sampler: Any, iteration: int, hub: MessageHub, workers: int = 0) -> Any:
    """What the hook sees of a runner."""
    loader = SimpleNamespace(dataset=SimpleNamespace(), sampler=sampler, num_workers=workers)
    train_loop = SimpleNamespace(dataloader_iterator=Skipping(loader))
    return SimpleNamespace(
        train_dataloader=loader, train_loop=train_loop, iter=iteration, seed=5, message_hub=hub
    )


def test_a_resumed_sampler_has_its_first_seed() -> None:
    hub = MessageHub('seeds')
    IterationSeedHook().before_train(loop(Sampler(123), 0, hub))
    resumed = loop(Sampler(999), 7, hub)
    IterationSeedHook().before_train(resumed)
    assert resumed.train_dataloader.sampler.seed == 123
    fresh = loop(Sampler(999), 0, MessageHub('others'))
    IterationSeedHook().before_train(fresh)
    assert fresh.train_dataloader.sampler.seed == 999


@pytest.mark.parametrize(
    ('sampler', 'workers', 'start'), [(Sampler(0), 2, 7), (object(), 0, 7), (object(), 2, 0)]
)
def test_batches_are_counted_from_the_first_that_is_loaded(
    sampler: Any, workers: int, start: int
) -> None:
    runner = loop(sampler, 7, MessageHub('start'), workers)
    IterationSeedHook().before_train(runner)
    assert runner.train_dataloader.dataset.__getitems__.start == start
