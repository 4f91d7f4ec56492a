"""The training iteration, as the runner counts it."""

from __future__ import annotations

from mmengine.logging import MessageHub


def current_iteration() -> int:
    """The number of iterations that are complete; 0 before the first and without a runner.

    The runner keeps it in its message hub and restores it on a resume, so that whatever
    depends on it alone (schedules, shuffles) goes on where it stopped.
    """
    return int(MessageHub.get_current_instance().get_info('iter', 0))
