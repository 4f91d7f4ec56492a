"""One set of running statistics."""

from __future__ import annotations

from mmengine.dist import broadcast
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class RankZeroBuffersHook(Hook):
    """Gives every rank the buffers of rank 0 before a training and before each validation.

    A training begins with the same on all, whatever random numbers each had: queues and tokens of
    losses are buffers too. BatchNorm without synchronisation has statistics of its own on each
    rank, and a checkpoint has those of rank 0: with the others' as well a validation would measure
    networks that nobody has.
    `mmseg-kd train` adds it to every run.
    """

    def before_train(self, runner: Runner) -> None:
        """Send the buffers round."""
        for buffer in runner.model.buffers():
            broadcast(buffer, src=0)

    def before_val(self, runner: Runner) -> None:
        """Send the buffers round."""
        self.before_train(runner)
