"""Where numbers stop being finite in a network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


def has_non_finite(values: Any) -> bool:
    """Whether a tensor in a nest of lists, tuples and dicts has a NaN or an infinity."""
    return any(
        isinstance(leaf, Tensor) and leaf.is_floating_point() and not bool(leaf.isfinite().all())
        for leaf in tree_leaves(values)
    )


def first_non_finite_layer(
    networks: Mapping[str, nn.Module], run: Callable[[], object]
) -> str | None:
    """The first layer that puts out a NaN or an infinity when `run` is called.

    Every layer's output is looked at, on a GPU with a synchronisation for each: for the rare run
    after something went wrong.

    Args:
        networks: By the name that stands before their layers' names; '' for none.
        run: Runs them, without gradients.

    Returns:
        The layer's name; None where every layer's output is finite.
    """
    found: list[str] = []
    handles = []

    def look_at(name: str) -> Any:
        def look(module: nn.Module, args: Any, output: Any) -> None:
            if not found and has_non_finite(output):
                found.append(name)

        return look

    for prefix, network in networks.items():
        for name, module in network.named_modules(prefix=prefix):
            handles.append(module.register_forward_hook(look_at(name or type(module).__name__)))
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def last_non_finite_gradient(parameters: Iterable[tuple[str, nn.Parameter]]) -> str | None:
    """The last of the named parameters whose gradient has a NaN or an infinity.

    The backward pass goes from the last to the first, and what is not finite stays so.
    """
    names = [name for name, p in parameters if p.grad is not None and has_non_finite(p.grad)]
    return names[-1] if names else None
