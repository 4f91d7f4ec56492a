"""The layers of a network that can be tapped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mmseg_kd.errors import ShapeError
from mmseg_kd.networks.forward import run_whole
from mmseg_kd.networks.probe import evaluating, run_on_noise
from mmseg_kd.networks.taps import Tap, find_tap, tap_names


@dataclass(frozen=True)
class Layer:
    """A layer that puts out one tensor in a forward pass.

    Attributes:
        name: As in `find_tap`.
        kind: The module's class.
        shape: Of the output for one image.
        image_size: Height and width of that image.
        parameters: How many, those of its inner layers included.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    image_size: tuple[int, int]
    parameters: int


@dataclass(frozen=True)
class Pass:
    """What one image left in a network.

    Attributes:
        image_size: Its height and width.
        outputs: Of the layers that can be tapped, in the order of `named_modules()`.
        handed_on: The maps that the backbone and the neck hand on, by 'backbone' and 'neck'.
    """

    image_size: tuple[int, int]
    outputs: Mapping[str, Tensor]
    handed_on: Mapping[str, Sequence[Tensor]]


def run_once(network: nn.Module) -> Pass:
    """One forward pass through all of `network`, auxiliary heads included."""
    taps = {name: find_tap(network, name, 'network') for name in tap_names(network)}
    outputs: dict[str, Tensor] = {}
    handed_on: dict[str, Sequence[Tensor]] = {}
    handles = []

    def keep(name: str, tap: Tap) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            with suppress(ShapeError):
                outputs[name] = tap.read(args, kwargs, output)

        return hook

    def keep_part(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            handed_on[name] = tuple(_maps_in(output))

        return hook

    def run(images_NCHW: Tensor) -> tuple[int, int]:
        outputs.clear()
        run_whole(network, images_NCHW, taps)
        height, width = images_NCHW.shape[-2:]
        return height, width

    for name, tap in taps.items():
        handles.append(tap.module.register_forward_hook(keep(name, tap), with_kwargs=True))
    for name, part in network.named_children():
        if name in ('backbone', 'neck'):
            handles.append(part.register_forward_hook(keep_part(name)))
    try:
        with evaluating(network):
            image_size = run_on_noise(network, run, 'network')
    finally:
        for handle in handles:
            handle.remove()
    return Pass(image_size, {name: outputs[name] for name in taps if name in outputs}, handed_on)


def _maps_in(output: Any) -> Iterator[Tensor]:
    """The maps of an output; a ViT for DPT hands on pairs of a map and a class token."""
    if isinstance(output, (list, tuple)):
        for one in output:
            yield from _maps_in(one)
    elif isinstance(output, Tensor) and output.ndim == 4:
        yield output


def list_layers(network: nn.Module) -> list[Layer]:
    """All layers of `network` that can be tapped, in the order of `named_modules()`."""
    modules = dict(network.named_modules())
    seen = run_once(network)
    return [
        Layer(
            name,
            type(find_tap(network, name, 'network').module).__name__,
            tuple(output.shape),
            seen.image_size,
            # What stands for a part of a module has no parameters of its own.
            sum(p.numel() for p in modules[name].parameters()) if name in modules else 0,
        )
        for name, output in seen.outputs.items()
    ]
