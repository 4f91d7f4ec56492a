"""The layers of a network that can be tapped."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from torch import nn

from mmseg_kd.errors import ShapeError
from mmseg_kd.network import kept_features, run_auxiliary_heads
from mmseg_kd.probe import evaluating, probe_images
from mmseg_kd.taps import Tap, find_tap, tap_names


@dataclass(frozen=True)
class Layer:
    """A layer that puts out one tensor in a forward pass.

    Attributes:
        name: As in `find_tap`.
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
    modules = dict(network.named_modules())
    taps = {name: find_tap(network, name, 'network') for name in tap_names(network)}
    shapes: dict[str, tuple[int, ...]] = {}
    handles = []

    def keep(name: str, tap: Tap) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            with suppress(ShapeError):
                shapes[name] = tuple(tap.read(args, kwargs, output).shape)

        return hook

    for name, tap in taps.items():
        handles.append(tap.module.register_forward_hook(keep(name, tap), with_kwargs=True))
    try:
        with evaluating(network), kept_features(network) as features:
            network(probe_images(network), mode='tensor')
            run_auxiliary_heads(network, features[-1])
    finally:
        for handle in handles:
            handle.remove()
    return [
        Layer(
            name,
            type(tap.module).__name__,
            shapes[name],
            # What stands for a part of a module has no parameters of its own.
            sum(p.numel() for p in tap.module.parameters()) if name in modules else 0,
        )
        for name, tap in taps.items()
        if name in shapes
    ]
