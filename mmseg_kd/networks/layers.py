"""The layers of a network that can be tapped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mmseg_kd.errors import ShapeError
from mmseg_kd.networks.forward import run_whole
from mmseg_kd.networks.probe import evaluating, run_on_noise
from mmseg_kd.networks.tap_name import tensors_in
from mmseg_kd.networks.taps import Tap, find_tap, tap_names


@dataclass(frozen=True)
class Layer:
    """A layer that puts out one tensor in a forward pass, or a part of what one puts out.

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
        outputs: Of the layers that put out one tensor, in the order of `named_modules()`.
        parts: Of layers that put out several, by the layer: the tensors by what they are tapped as.
        handed_on: The maps that the backbone and the neck hand on, by 'backbone' and 'neck'.
    """

    image_size: tuple[int, int]
    outputs: Mapping[str, Tensor]
    parts: Mapping[str, Mapping[str, Tensor]]
    handed_on: Mapping[str, Sequence[Tensor]]


def run_once(network: nn.Module) -> Pass:
    """One forward pass through all of `network`, auxiliary heads included."""
    taps = {name: find_tap(network, name, 'network') for name in tap_names(network)}
    modules = dict(network.named_modules())
    outputs: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    handed_on: dict[str, Sequence[Tensor]] = {}

    def keep(name: str, tap: Tap) -> Any:
        def see(args: Any, kwargs: Any, output: Any) -> None:
            try:
                outputs[name] = tap.read(args, kwargs, output)
            except ShapeError:
                if name in modules:  # not what stands for a part of one
                    parts[name] = dict(tensors_in(output, name))

        return see

    def keep_part(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            handed_on[name] = tuple(_maps_in(output))

        return hook

    def run(images_NCHW: Tensor) -> tuple[int, int]:
        outputs.clear()
        parts.clear()
        run_whole(network, images_NCHW, taps)
        height, width = images_NCHW.shape[-2:]
        return height, width

    with ExitStack() as hooks, evaluating(network):
        for name, tap in taps.items():
            hooks.enter_context(tap.watch(keep(name, tap)))
        for name, part in network.named_children():
            if name in ('backbone', 'neck'):
                hooks.enter_context(part.register_forward_hook(keep_part(name)))
        image_size = run_on_noise(network, run, 'network')
    in_order = {name: outputs[name] for name in taps if name in outputs}
    return Pass(image_size, in_order, parts, handed_on)


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
    found = []
    for name in tap_names(network):
        kind = type(find_tap(network, name, 'network').module).__name__
        # What stands for a part of a module has no parameters of its own.
        count = sum(p.numel() for p in modules[name].parameters()) if name in modules else 0
        tensors = {name: seen.outputs[name]} if name in seen.outputs else seen.parts.get(name, {})
        for text, output in tensors.items():
            found.append(Layer(text, kind, tuple(output.shape), seen.image_size, count))
    return found
