"""The workers of a run's data loaders."""

from __future__ import annotations

from typing import Any

from mmengine.runner import Runner
from mmengine.runner.base_loop import BaseLoop


def end_workers(runner: Runner) -> None:
    """End them; a loop that is run again starts new ones.

    Left to the garbage collector they take five seconds each: it takes the queues that would tell
    them to end before the iterators that would write into these.
    """
    for loop in (runner._train_loop, runner._val_loop, runner._test_loop):
        # A loop that was never run is the dict that it would be built from.
        if not isinstance(loop, BaseLoop):
            continue
        # One keeps persistent workers, the other goes on over the epochs.
        for owner in (loop.dataloader, getattr(loop, 'dataloader_iterator', None)):
            iterator: Any = getattr(owner, '_iterator', None)
            if owner is not None and hasattr(iterator, '_shutdown_workers'):
                iterator._shutdown_workers()
                owner._iterator = None
