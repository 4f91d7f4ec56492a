"""One dry run of a network on a tiny input: what its layers put out, and what it runs."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmseg_kd.errors import ConfigError, KDError
from mmseg_kd.host.quiet import explain
from mmseg_kd.networks.forward import run_to_layers, run_whole
from mmseg_kd.networks.recorder import Recorder
from mmseg_kd.networks.taps import Taps

# Large enough for every backbone's total stride, small enough to cost nothing.
PROBE_SIZE = (128, 128)


@dataclass(frozen=True)
class Probe:
    """What a dry run to some layers found, and one of the whole network after it.

    Attributes:
        images_NCHW: What it was run on.
        outputs: The layers' outputs; a layer that did not run is absent.
        learning: Layers through whose output something learns.
        modified_in_place: Layers whose output the network changes in place afterwards.
        used: Parameters and buffers, by key, that the run to the layers went through.
        used_in_all: Those that the run of the whole network went through.
    """

    images_NCHW: Tensor
    outputs: dict[str, Tensor]
    learning: set[str]
    modified_in_place: set[str]
    used: set[str]
    used_in_all: set[str]

    @property
    def taps(self) -> Taps:
        """The outputs as a network's taps."""
        height, width = self.images_NCHW.shape[-2:]
        return Taps(self.outputs, (height, width))


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Every module in eval mode, without gradients, and each back to its own mode afterwards.

    BatchNorm statistics stay as they are, and so does torch's random state on the CPU.
    """
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def probe_images(network: nn.Module) -> Tensor:
    """A tiny batch of one random image for `network`, on its device."""
    device = next((p.device for p in network.parameters()), torch.device('cpu'))
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, 3, *PROBE_SIZE, generator=generator).to(device)


def probe(
    network: nn.Module, layers: Collection[str], side: str, example_NCHW: Tensor | None = None
) -> Probe:
    """Run `network` to `layers`, and then as a whole, and look.

    Args:
        network: Any network.
        layers: Names as in `find_tap`.
        side: What messages call the network.
        example_NCHW: Images to run it on; None: one of noise, of `PROBE_SIZE`.

    Raises:
        ConfigError: The network fails on them.
    """
    images = probe_images(network) if example_NCHW is None else example_NCHW
    entered: set[str] = set()
    completed: set[str] = set()
    handles = []

    def mark(name: str, into: set[str]) -> Any:
        return lambda *_: into.add(name)

    def used() -> set[str]:
        # Some code calls a module's `forward`, past its hooks: what ran inside it tells.
        inside = {name[:i] for name in entered for i, c in enumerate(name) if c == '.'}
        return {k for k in network.state_dict() if _is_used(k, entered | inside, completed)}

    for name, module in network.named_modules():
        handles.append(module.register_forward_pre_hook(mark(name, entered)))
        handles.append(module.register_forward_hook(mark(name, completed)))
    try:
        with evaluating(network):
            with torch.enable_grad():
                outputs = run_to_layers(network, images, layers)
            learning = {name for name, output in outputs.items() if output.requires_grad}
            outputs = {name: output.detach() for name, output in outputs.items()}
            used_to_layers = used()
            # A full run, since what changes an output comes after it.
            with Recorder(network, outputs) as taps:
                run_whole(network, images, outputs)
                modified_in_place = taps.modified_in_place
    except KDError as error:
        raise type(error)(f'{side}: {error}') from error
    except Exception as error:  # whatever a network raises
        height, width = images.shape[-2:]
        # Torch's word for tensors that do not go together.
        hint = '; check in_channels and in_index of its heads' * isinstance(error, RuntimeError)
        raise ConfigError(
            f'{side}: a dry run on an image of {height}x{width} failed: {explain(error)}{hint}'
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return Probe(images, outputs, learning, modified_in_place, used_to_layers, used())


def _is_used(key: str, entered: Collection[str], completed: Collection[str]) -> bool:
    """Whether the run went through the tensor called `key`.

    It did where it entered the module that owns the tensor. Some modules are used without
    being called (the projection of MultiheadAttention): these count as used where the nearest
    module around them that was entered ran to its end.
    """
    owner = name = key.rpartition('.')[0]
    while name and name not in entered:
        name = name.rpartition('.')[0]
    return name == owner or name in completed
