"""Batches and randomness that a resumed run repeats."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner

# What a seed is for.
_DATA, _MODEL = 0, 1

# Entries of the message hub, which goes into the checkpoint: the sampler's seed, and how many of
# how many batches of an epoch are done.
_SAMPLER_SEED = 'sampler_seed'
EPOCH_POSITION = 'epoch_position'


def seed_all(*words: int) -> None:
    """Seed Python's, numpy's and torch's generators, on all devices, with a mix of `words`."""
    state = np.random.SeedSequence(words).generate_state(4)
    random.seed(int(state[0]))
    np.random.seed(state[1:2])
    torch.manual_seed(int(state[2]) << 32 | int(state[3]))


def seed_networks(seed: int, rank: int, iteration: int) -> None:
    """Seed what the networks of a rank draw in an iteration."""
    seed_all(seed, rank, iteration, _MODEL)


class NumberedBatch(list[int]):
    """The indices of a batch, and its number in the run."""

    number: int


class NumberedBatches:
    """A batch sampler that numbers its batches, over all its passes.

    The numbers travel with the indices into the data loader's workers, however many there are,
    whichever of them makes a batch and however far they are ahead.

    Args:
        batches: The loader's own batch sampler, asked for all that is not here.
        number: The number of the first batch.
        skip: How many batches of the first pass are left out.
    """

    def __init__(self, batches: Iterable[Sequence[int]], number: int, skip: int = 0) -> None:
        self.batches = batches
        self.number = number
        self.skip = skip

    def __iter__(self) -> Iterator[NumberedBatch]:
        skip, self.skip = self.skip, 0
        for indices in islice(self.batches, skip, None):
            batch = NumberedBatch(indices)
            batch.number = self.number
            self.number += 1
            yield batch

    def __len__(self) -> int:
        return len(self.batches)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.batches, name)


class SeededBatches:
    """Makes the items of a batch after a seed of the batch's own.

    It takes the place of a data set's `__getitems__`, which a data loader calls once a batch.

    Args:
        dataset: The data set.
        seed, rank: Parts of the seed.
    """

    def __init__(self, dataset: Any, seed: int, rank: int) -> None:
        self.dataset = dataset
        self.words = (seed, rank)

    def __call__(self, batch: NumberedBatch) -> list[Any]:
        seed_all(*self.words, batch.number, _DATA)
        own = getattr(type(self.dataset), '__getitems__', None)
        if own is not None:
            return list(own(self.dataset, batch))
        return [self.dataset[index] for index in batch]


@HOOKS.register_module()
class IterationSeedHook(Hook):
    """Makes all that is random in an iteration a function of seed, rank and iteration alone.

    Augmentation, dropout and drop path of an iteration are then the same whether the run came
    there in one go or was resumed on the way, with any number of worker processes and
    validations in between. A resumed run goes on with the batch that would have come next, by
    iterations (mmengine's `IterBasedTrainLoop`) and by epochs (`EpochBasedTrainLoop`), in the
    middle of an epoch too. `mmseg-kd train` adds the hook to every run.
    """

    # After the hooks that prepare an iteration, before those that look at it.
    priority = 'NORMAL'

    def before_train(self, runner: Runner) -> None:
        """Number the batches, from the one that the run starts with, and seed them."""
        loader = runner.train_dataloader
        sampler = getattr(loader.batch_sampler, 'sampler', loader.sampler)
        if hasattr(sampler, 'seed'):
            # A resumed run's sampler was made before the checkpoint was read.
            known = runner.message_hub.runtime_info.get(_SAMPLER_SEED)
            if runner.iter > 0 and known is not None:
                sampler.seed = known
            runner.message_hub.update_info(_SAMPLER_SEED, sampler.seed)
        number, skip = runner.iter, 0
        self._by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
        if self._by_epoch:
            skip = self._done_of_epoch(runner)
        elif not (hasattr(loader.sampler, 'skip') or runner.train_loop.fast_forward_on_resume):
            number = 0  # the loop goes through the batches that were seen
        # The loader lets nobody exchange its batch sampler, lest it contradict the batch size.
        vars(loader)['batch_sampler'] = NumberedBatches(loader.batch_sampler, number, skip)
        loader.dataset.__getitems__ = SeededBatches(loader.dataset, runner.seed or 0, get_rank())

    def _done_of_epoch(self, runner: Runner) -> int:
        """How many batches of its first epoch a run by epochs has seen before it was resumed."""
        done, epoch = map(int, runner.message_hub.get_info(EPOCH_POSITION, (0, 0)))
        length = len(runner.train_dataloader)
        if done and epoch != length:
            runner.logger.warning(
                f'The checkpoint was written after {done} of {epoch} iterations of an epoch, which '
                f'now has {length}: the epoch begins anew.'
            )
            done = 0
        self._done = done
        return done

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seed what the networks draw."""
        self.seed_networks(runner, runner.iter)

    def seed_networks(self, runner: Runner, iteration: int) -> None:
        """Seed what the networks draw in an iteration."""
        seed_networks(runner.seed or 0, get_rank(), iteration)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Count the iterations of an epoch."""
        if self._by_epoch:
            self._count(runner, self._done + 1)

    def after_train_epoch(self, runner: Runner) -> None:
        """Begin to count anew."""
        if self._by_epoch:
            self._count(runner, 0)

    def _count(self, runner: Runner, done: int) -> None:
        self._done = done
        position = (done, len(runner.train_dataloader))
        runner.message_hub.update_info(EPOCH_POSITION, position)
