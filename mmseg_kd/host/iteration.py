"""The training iteration, as the runner or a loop of one's own counts it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from mmengine.logging import MessageHub

from mmseg_kd.checks import at_least_zero
from mmseg_kd.errors import IterationError

_OF_A_LOOP: ContextVar[int | None] = ContextVar('iteration of a loop', default=None)


@contextmanager
def at_iteration(iteration: int) -> Iterator[None]:
    """Inside, `current_iteration()` is `iteration`, whatever a runner says.

    For loops without a runner; the inner one of two counts.

    >>> for i, (images, labels) in enumerate(loader):
    ...     with at_iteration(i):
    ...         value = loss(student(images), teacher(images), labels)

    Args:
        iteration: How many iterations are complete, >= 0.

    Raises:
        ValueError: It is no whole number >= 0.
    """
    token = _OF_A_LOOP.set(at_least_zero('iteration', iteration))
    try:
        yield
    finally:
        _OF_A_LOOP.reset(token)


def current_iteration() -> int:
    """The number of iterations that are complete: of `at_iteration`, else of mmengine's runner.

    The runner keeps it in its message hub and restores it on a resume, so that whatever
    depends on it alone (schedules, shuffles) goes on where it stopped.

    Raises:
        IterationError: Nobody counts: there is neither.
    """
    iteration = _OF_A_LOOP.get()
    if iteration is None:
        iteration = MessageHub.get_current_instance().get_info('iter')
    if iteration is None:
        raise IterationError(
            "expected to run under mmengine's runner or inside `with at_iteration(i):` (from "
            'mmseg_kd.schedules), got neither: a schedule or a shuffle depends on the iteration.'
        )
    return int(iteration)
