"""The hooks that a runner has."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from mmseg_kd.hooks import NonFiniteHook, RankZeroBuffersHook
from mmseg_kd.hooks.find import find_hooks, get_or_add_hook


class Own(NonFiniteHook):
    """A user's hook in the place of ours."""


def test_the_runners_own_hook_comes_first() -> None:
    hooks: list[Any] = [RankZeroBuffersHook()]
    runner = SimpleNamespace(hooks=hooks, register_hook=hooks.append)
    assert find_hooks(runner, NonFiniteHook) == []
    new = get_or_add_hook(runner, NonFiniteHook)
    assert type(new) is NonFiniteHook
    assert get_or_add_hook(runner, NonFiniteHook) is new
    hooks[:] = [own := Own(), RankZeroBuffersHook()]
    assert get_or_add_hook(runner, NonFiniteHook) is own
    assert len(hooks) == 2
