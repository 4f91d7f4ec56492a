"""The hooks that a runner has."""

from __future__ import annotations

from typing import TypeVar

from mmengine.hooks import Hook
from mmengine.runner import Runner

T = TypeVar('T', bound=Hook)


def find_hooks(runner: Runner, kind: type[T]) -> list[T]:
    """A runner's hooks of one kind, in the order in which they are called."""
    return [hook for hook in runner.hooks if isinstance(hook, kind)]


def find_hook(runner: Runner, kind: type[T]) -> T | None:
    """The first of them; None: there is none."""
    return next(iter(find_hooks(runner, kind)), None)


def get_or_add_hook(runner: Runner, kind: type[T]) -> T:
    """The hook of one kind that a runner has from its config; where there is none it gets one."""
    for hook in find_hooks(runner, kind):
        return hook
    hook = kind()
    runner.register_hook(hook)
    return hook
