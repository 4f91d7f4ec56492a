"""Where numbers stop being finite in a network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from mmseg_kd.networks.build import unwrapped


def has_non_finite(values: Any) -> bool:
    """Whether a tensor in a nest of lists, tuples and dicts has a NaN or an infinity."""
    return any(
        isinstance(leaf, Tensor) and leaf.is_floating_point() and not bool(leaf.isfinite().all())
        for leaf in tree_leaves(values)
    )


@dataclass
class Origin:
    """Where a NaN or an infinity came up first; None: nowhere.

    Attributes:
        layer: In the forward pass: the layer that put it out.
        gradient: In the backward pass: the layer whose output has such a gradient, or the
            parameter.
    """

    layer: str | None = None
    gradient: str | None = None


@contextmanager
def watching(networks: Mapping[str, nn.Module]) -> Iterator[Origin]:
    """Inside, each layer's output is looked at, and the gradients that come back to it.

    On a GPU that is a synchronisation for each: for the rare run after something went wrong.

    Args:
        networks: By the name that stands before their layers' names; '' for none.
    """
    origin = Origin()

    def look(name: str) -> Any:
        def forward(module: nn.Module, args: Any, output: Any) -> None:
            if origin.layer is None and has_non_finite(output):
                origin.layer = name
            for leaf in tree_leaves(output):
                if isinstance(leaf, Tensor) and leaf.requires_grad:
                    leaf.register_hook(backward(name))

        return forward

    def backward(name: str) -> Any:
        def look(gradient: Tensor) -> None:
            if origin.gradient is None and has_non_finite(gradient):
                origin.gradient = name

        return look

    handles = []
    for prefix, network in networks.items():
        for name, module in network.named_modules(prefix=prefix):
            handles.append(module.register_forward_hook(look(name or type(module).__name__)))
        for name, parameter in network.named_parameters(prefix=prefix):
            if parameter.requires_grad:
                handles.append(parameter.register_hook(backward(name)))
    try:
        yield origin
    finally:
        for handle in handles:
            handle.remove()


def named_networks(model: Any) -> dict[str, nn.Module]:
    """What `watching` takes for a model: that itself, and teachers, which are no part of it."""
    model = unwrapped(model)
    teachers = getattr(model, 'teachers', {})
    label = 'teacher' if len(teachers) == 1 else 'teacher {}'
    return {'': model, **{label.format(name): one for name, one in teachers.items()}}


def last_non_finite_gradient(parameters: Iterable[tuple[str, nn.Parameter]]) -> str | None:
    """The last of the named parameters whose gradient has a NaN or an infinity.

    The backward pass goes from the last to the first, and what is not finite stays so.
    """
    names = [name for name, p in parameters if p.grad is not None and has_non_finite(p.grad)]
    return names[-1] if names else None
