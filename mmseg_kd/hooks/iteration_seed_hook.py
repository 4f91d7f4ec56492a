"""Randomness that a resumed run repeats."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch.utils.data import get_worker_info

# What a seed is for.
_DATA, _MODEL = 0, 1


def seed_all(*words: int) -> None:
    """Seed Python's, numpy's and torch's generators, on all devices, with a mix of `words`."""
    state = np.random.SeedSequence(words).generate_state(4)
    random.seed(int(state[0]))
    np.random.seed(state[1:2])
    torch.manual_seed(int(state[2]) << 32 | int(state[3]))


class SeededBatches:
    """Makes the items of a batch after a seed of the batch's own.

    It takes the place of a data set's `__getitems__`, which a data loader's worker calls once a
    batch. Which batch that is follows from the worker's number: workers take turns.

    Args:
        dataset: The data set.
        seed, rank: Parts of the seed.
        start: The number of the first batch.
    """

    def __init__(self, dataset: Any, seed: int, rank: int, start: int) -> None:
        self.dataset = dataset
        self.words = (seed, rank)
        self.start = start
        self.calls = 0

    def __call__(self, indices: Sequence[int]) -> list[Any]:
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        seed_all(*self.words, self.start + number + workers * self.calls, _DATA)
        self.calls += 1
        return [self.dataset[index] for index in indices]


@HOOKS.register_module()
class IterationSeedHook(Hook):
    """Makes all that is random in an iteration a function of seed, rank and iteration alone.

    Augmentation, dropout and drop path of an iteration are then the same whether the run came
    there in one go or was resumed on the way, with any number of worker processes and
    validations in between. It works with mmengine's `IterBasedTrainLoop` and `InfiniteSampler`;
    `tools/train.py` adds it to every run.
    """

    # After the hooks that prepare an iteration, before those that look at it.
    priority = 'NORMAL'

    def before_train(self, runner: Runner) -> None:
        """Seed the batches, from the one that the run starts with."""
        loader = runner.train_dataloader
        sampler = loader.sampler
        if hasattr(sampler, 'seed') and runner.seed is not None:
            # A resumed run has the checkpoint's seed, and a sampler from before it was read.
            sampler.seed = runner.seed
        # A sampler that cannot skip what was seen makes the loop load it all again.
        start = runner.iter if hasattr(sampler, 'skip') else 0
        loader.dataset.__getitems__ = SeededBatches(
            loader.dataset, runner.seed or 0, get_rank(), start
        )

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seed what the networks draw."""
        seed_all(runner.seed or 0, get_rank(), runner.iter, _MODEL)
