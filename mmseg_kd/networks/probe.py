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
from mmseg_kd.networks.forward import PROBE_SIZE, is_auxiliary, run_to_layers, run_whole
from mmseg_kd.networks.recorder import Recorder


@dataclass(frozen=True)
class Probe:
    """What a dry run to some layers found.

    Attributes:
        outputs: The layers' outputs; a layer that did not run is absent.
        learning: Layers through whose output something learns.
        modified_in_place: Layers whose output the network changes in place afterwards.
        used: Parameters and buffers, by key, that the run went through.
    """

    outputs: dict[str, Tensor]
    learning: set[str]
    modified_in_place: set[str]
    used: set[str]


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
    device = next(network.parameters()).device
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, 3, *PROBE_SIZE, generator=generator).to(device)


def probe(network: nn.Module, layers: Collection[str], side: str) -> Probe:
    """Run `network` to `layers` and look.

    Raises:
        ConfigError: The network fails on an image of `PROBE_SIZE`.
    """
    entered: set[str] = set()
    completed: set[str] = set()
    handles = []

    def mark(name: str, into: set[str]) -> Any:
        return lambda *_: into.add(name)

    for name, module in network.named_modules():
        handles.append(module.register_forward_pre_hook(mark(name, entered)))
        handles.append(module.register_forward_hook(mark(name, completed)))
    try:
        with evaluating(network):
            images = probe_images(network)
            with torch.enable_grad():
                outputs = run_to_layers(network, images, layers)
            learning = {name for name, output in outputs.items() if output.requires_grad}
            outputs = {name: output.detach() for name, output in outputs.items()}
            # mmseg calls a head's `forward`, past its hooks: what ran inside it tells.
            entered |= {name[:i] for name in entered for i, c in enumerate(name) if c == '.'}
            used = {k for k in network.state_dict() if _is_used(k, entered, completed)}
            # A full run, since what changes an output comes after it.
            with Recorder(network, outputs) as taps:
                run_whole(network, images, any(map(is_auxiliary, outputs)))
                modified_in_place = taps.modified_in_place
    except KDError as error:
        raise type(error)(f'{side}: {error}') from error
    except Exception as error:  # whatever a network raises
        size = 'x'.join(map(str, PROBE_SIZE))
        # Torch's word for tensors that do not go together.
        hint = '; check in_channels and in_index of its heads' * isinstance(error, RuntimeError)
        raise ConfigError(
            f'{side}: a dry run on an image of {size} failed: {explain(error)}{hint}'
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return Probe(outputs, learning, modified_in_place, used)


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
