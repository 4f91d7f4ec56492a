from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from builders import same_tensors
from everything import write_everything
from mmengine.logging import MessageHub
from mmengine.runner import EpochBasedTrainLoop
from torch.utils.data import BatchSampler, DataLoader

from mmseg_kd.cli import train
from mmseg_kd.hooks.iteration_seed_hook import (
    IterationSeedHook,
    NumberedBatch,
    NumberedBatches,
    SeededBatches,
    seed_all,
)


def test_another_seed_is_another_run(tmp_path: Path) -> None:
    """What is the same with the same seed is in exact_resume.py."""
    config = str(write_everything(tmp_path))
    weights = []
    for seed in ('0', '1'):
        folder = str(tmp_path / seed)
        # The visualiser is one for each name in a process.
        options = ['train_cfg.max_iters=2', 'param_scheduler=[]', f'visualizer.name={folder}']
        command = [config, '--work-dir', folder, '--seed', seed, '--cfg-options', *options]
        assert train.main(command) == 0
        weights.append(torch.load(tmp_path / seed / 'iter_2.pth', weights_only=False)['state_dict'])
    assert not same_tensors(*weights)


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


class Noise:
    """A random number and the index for each of five items."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> tuple[int, float]:
        return index, float(np.random.rand())


def numbered(number: int, *indices: int) -> NumberedBatch:
    batch = NumberedBatch(indices)
    batch.number = number
    return batch


def test_batches_are_seeded_by_their_number() -> None:
    make = SeededBatches(Noise(), seed=0, rank=0)
    batches = [make(numbered(number, 0, 1)) for number in range(4)]
    assert len({value for items in batches for _, value in items}) == 8
    again = SeededBatches(Noise(), seed=0, rank=0)
    assert [again(numbered(number, 0, 1)) for number in (3, 2)] == [batches[3], batches[2]]
    assert SeededBatches(Noise(), seed=0, rank=1)(numbered(0, 0, 1)) != batches[0]
    assert SeededBatches(Noise(), seed=1, rank=0)(numbered(0, 0, 1)) != batches[0]


def test_a_data_set_that_makes_whole_batches_keeps_its_way() -> None:
    class Batches:
        def __getitem__(self, index: int) -> float:
            raise NotImplementedError

        def __getitems__(self, indices: list[int]) -> list[float]:
            return [index + float(np.random.rand()) for index in indices]

    first, again = (SeededBatches(Batches(), seed=0, rank=0)(numbered(0, 3, 4)) for _ in range(2))
    assert first == again
    assert [int(value) for value in first] == [3, 4]


def passes(workers: int, persistent: bool, number: int = 0, skip: int = 0) -> list[Any]:
    """All batches of two passes over the data."""
    dataset: Any = Noise()
    dataset.__getitems__ = SeededBatches(dataset, seed=0, rank=0)
    batches = NumberedBatches(BatchSampler(range(5), 2, drop_last=False), number, skip)
    loader = DataLoader(
        dataset,
        batch_sampler=batches,  # type: ignore[arg-type]
        num_workers=workers,
        persistent_workers=persistent,
        collate_fn=list,
    )
    assert len(loader) == 3
    return [batch for _ in range(2) for batch in loader]


@pytest.mark.parametrize(('workers', 'persistent'), [(1, False), (2, False), (2, True)])
def test_workers_change_nothing(workers: int, persistent: bool) -> None:
    plain = passes(0, False)
    assert [[index for index, _ in batch] for batch in plain] == [[0, 1], [2, 3], [4]] * 2
    # In the second pass other numbers are drawn for the same items.
    assert len({value for batch in plain for _, value in batch}) == 10
    assert passes(workers, persistent) == plain
    # As a run that was resumed after the first batch.
    assert passes(workers, persistent, number=1, skip=1) == plain[1:]


def test_what_is_asked_of_the_batch_sampler() -> None:
    sampler = SimpleNamespace(set_epoch=print)
    batches = NumberedBatches(BatchSampler(sampler, 2, drop_last=False), 0)  # type: ignore[arg-type]
    assert batches.sampler is sampler
    assert not hasattr(batches, 'skip_iter')


class Sampler:
    """A sampler with a seed of its own, as one that skips."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __iter__(self) -> Iterator[int]:
        return iter(range(5))

    def __len__(self) -> int:
        return 5

    def skip(self, count: int) -> None:
        """Do nothing."""


def make_runner(sampler: Any, iteration: int, hub: MessageHub, train_loop: Any = None) -> Any:
    """What the hook sees of a runner."""
    return SimpleNamespace(
        train_dataloader=DataLoader(Noise(), 2, sampler=sampler),  # type: ignore[arg-type]
        train_loop=train_loop or SimpleNamespace(fast_forward_on_resume=False),
        iter=iteration,
        seed=5,
        message_hub=hub,
        logger=SimpleNamespace(warning=print),
    )


def test_a_resumed_sampler_has_its_first_seed() -> None:
    hub = MessageHub('seeds')
    IterationSeedHook().before_train(make_runner(Sampler(123), 0, hub))
    resumed = make_runner(Sampler(999), 7, hub)
    IterationSeedHook().before_train(resumed)
    assert resumed.train_dataloader.sampler.seed == 123
    fresh = make_runner(Sampler(999), 0, MessageHub('others'))
    IterationSeedHook().before_train(fresh)
    assert fresh.train_dataloader.sampler.seed == 999


@pytest.mark.parametrize(
    ('sampler', 'fast_forward', 'number'),
    [(Sampler(0), False, 7), (range(5), True, 7), (range(5), False, 0)],
)
def test_batches_are_counted_from_the_first_that_is_loaded(
    sampler: Any, fast_forward: bool, number: int
) -> None:
    loop = SimpleNamespace(fast_forward_on_resume=fast_forward)
    runner = make_runner(sampler, 7, MessageHub('start'), loop)
    IterationSeedHook().before_train(runner)
    batches = runner.train_dataloader.batch_sampler
    assert (batches.number, batches.skip) == (number, 0)


def test_an_epoch_of_another_length_begins_anew(capsys: pytest.CaptureFixture[str]) -> None:
    hub = MessageHub('epochs')
    loop = EpochBasedTrainLoop.__new__(EpochBasedTrainLoop)
    hook = IterationSeedHook()
    hook.before_train(make_runner(Sampler(0), 0, hub, loop))
    hook.after_train_iter(make_runner(Sampler(0), 0, hub, loop), 0)
    hook.after_train_iter(make_runner(Sampler(0), 1, hub, loop), 1)

    def skipped(length: int) -> int:
        runner = make_runner(range(length), 2, hub, loop)
        IterationSeedHook().before_train(runner)
        return int(runner.train_dataloader.batch_sampler.skip)

    assert skipped(5) == 2
    assert capsys.readouterr().out == ''
    assert skipped(9) == 0
    assert 'after 2 of 3 iterations of an epoch, which now has 5' in capsys.readouterr().out
    hook.after_train_epoch(make_runner(Sampler(0), 2, hub, loop))
    assert skipped(5) == 0
