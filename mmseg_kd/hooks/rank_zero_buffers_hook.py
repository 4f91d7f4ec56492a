"""One set of running statistics."""

from __future__ import annotations

from mmengine.dist import broadcast
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class RankZeroBuffersHook(Hook):
    """Gives every rank the buffers of rank 0 before a validation.

    BatchNorm without synchronisation has statistics of its own on each rank, and a checkpoint has
    those of rank 0: with the others' as well a validation would measure networks that nobody has.
    `mmseg-kd train` adds it to every run.
    """

    def before_val(self, runner: Runner) -> None:
        """Send the buffers round."""
        for buffer in runner.model.buffers():
            broadcast(buffer, src=0)
