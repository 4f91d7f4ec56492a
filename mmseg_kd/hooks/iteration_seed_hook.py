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

# Entry of the message hub, which goes into the checkpoint.
_SAMPLER_SEED = 'sampler_seed'


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
        own = getattr(type(self.dataset), '__getitems__', None)
        if own is not None:
            return list(own(self.dataset, indices))
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
        iterator = getattr(runner.train_loop, 'dataloader_iterator', None)
        if hasattr(loader.sampler, 'seed'):
            # A resumed run's sampler was made before the checkpoint was read.
            known = runner.message_hub.runtime_info.get(_SAMPLER_SEED)
            if runner.iter > 0 and known is not None:
                loader.sampler.seed = known
            runner.message_hub.update_info(_SAMPLER_SEED, loader.sampler.seed)
        # Where batches that were seen cannot be skipped, the loop loads them again.
        skips = hasattr(iterator, 'skip_iter') and (
            hasattr(loader.sampler, 'skip') or loader.num_workers == 0
        )
        loader.dataset.__getitems__ = SeededBatches(
            loader.dataset, runner.seed or 0, get_rank(), runner.iter if skips else 0
        )

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seed what the networks draw."""
        self.seed_networks(runner, runner.iter)

    def seed_networks(self, runner: Runner, iteration: int) -> None:
        """Seed what the networks draw in an iteration."""
        seed_all(runner.seed or 0, get_rank(), iteration, _MODEL)
