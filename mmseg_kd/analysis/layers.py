"""The layers of a network that can be tapped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mmseg_kd.network import kept_features, run_auxiliary_heads
from mmseg_kd.probe import evaluating, probe_images


@dataclass(frozen=True)
class Layer:
    """A layer that puts out one tensor in a forward pass.

    Attributes:
        name: As in `named_modules()`.
        kind: The module's class.
        shape: Of the output for one image of the probe's size.
        parameters: How many, those of its inner layers included.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int


def list_layers(network: nn.Module) -> list[Layer]:
    """All layers of `network` that can be tapped, in the order of `named_modules()`."""
    shapes: dict[str, tuple[int, ...]] = {}
    handles = []

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                shapes[name] = tuple(output.shape)

        return hook

    for name, module in network.named_modules():
        if name:
            handles.append(module.register_forward_hook(keep(name)))
    try:
        with evaluating(network), kept_features(network) as features:
            network(probe_images(network), mode='tensor')
            run_auxiliary_heads(network, features[-1])
    finally:
        for handle in handles:
            handle.remove()
    return [
        Layer(
            name, type(module).__name__, shapes[name], sum(p.numel() for p in module.parameters())
        )
        for name, module in network.named_modules()
        if name in shapes
    ]
