"""One dry run of a network on a tiny input: what its layers put out, and what it runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from mmseg_kd.errors import ConfigError, KDError
from mmseg_kd.host.quiet import explain
from mmseg_kd.networks.forward import as_network, run_to_layers, run_whole
from mmseg_kd.networks.recorder import Recorder
from mmseg_kd.networks.tap_name import parse_tap_name
from mmseg_kd.networks.taps import Taps

# Large enough for every backbone's total stride, small enough to cost nothing.
PROBE_SIZE = (128, 128)
# For networks that do not take it and do not say what they take.
LARGER = ((224, 224), (512, 512))

T = TypeVar('T')


@dataclass(frozen=True)
class Probe:
    """What a dry run of the whole network found, and one to some layers after it.

    Attributes:
        images_NCHW: What it was run on.
        outputs: The layers' outputs; a layer that did not run is absent.
        scored_classes: How many classes the outputs tell apart that are scores, by layer.
        learning: Layers through whose output something learns.
        modified_in_place: Layers whose output the network changes in place afterwards, in eval
            mode.
        calls: How often each layer runs in a forward pass.
        used: Parameters and buffers, by key, that the run to the layers went through.
        used_in_all: Those that the run of the whole network went through.
    """

    images_NCHW: Tensor
    outputs: dict[str, Tensor]
    scored_classes: dict[str, int]
    learning: set[str]
    modified_in_place: set[str]
    calls: dict[str, int]
    used: set[str]
    used_in_all: set[str]

    @property
    def taps(self) -> Taps:
        """The outputs as a network's taps."""
        height, width = self.images_NCHW.shape[-2:]
        return Taps(self.outputs, (height, width))


def keep_random_state(device: torch.device) -> AbstractContextManager[None]:
    """Torch's random state, on the CPU and on `device`, is afterwards as it was."""
    devices = [device] if device.type == 'cuda' else []
    context: AbstractContextManager[None] = torch.random.fork_rng(devices)
    return context


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


def run_on_noise(
    network: nn.Module,
    run: Callable[[Tensor], T],
    side: str,
    sizes: Collection[tuple[int, int]] = (),
) -> T:
    """What `run` gives for an image of noise: one of `PROBE_SIZE`, or else of a size that fits.

    Args:
        network: The network that runs.
        run: Runs it on images (1, C, H, W).
        side: What messages call the network.
        sizes: Heights and widths that it will get; those that it says itself come after them.

    Raises:
        ConfigError: The network fails on images of all these sizes.
    """
    seen_by = as_network(network)
    made_for = [*sizes, *seen_by.input_sizes]
    device = next((p.device for p in network.parameters()), torch.device('cpu'))
    errors: dict[tuple[int, int], Exception] = {}
    for size in dict.fromkeys((PROBE_SIZE, *(made_for or LARGER))):
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(1, seen_by.channels, *size, generator=generator).to(device)
        try:
            return run(noise)
        except KDError as error:
            raise type(error)(f'{side}: {error}') from error
        except Exception as error:  # whatever a network raises
            errors[size] = error
    (height, width), failure = next(iter(errors.items()))
    if made_for and len({re.sub(r'\d+', '', str(error)) for error in errors.values()}) > 1:
        # The first may be about a size that it is not made for.
        (height, width) = made_for[0]
        failure = errors[height, width]
    # Torch's word for tensors that do not go together.
    hint = '; check in_channels and in_index of its heads' * isinstance(failure, RuntimeError)
    raise ConfigError(
        f'{side}: a dry run on an image of {height}x{width} failed: {explain(failure)}{hint}'
    ) from failure


def probe(
    network: nn.Module,
    layers: Collection[str],
    side: str,
    sizes: Collection[tuple[int, int]] = (),
    example_NCHW: Tensor | None = None,
) -> Probe:
    """Run `network` as a whole, and then to `layers`, and look.

    Args:
        network: Any network.
        layers: Names as in `find_tap`.
        side: What messages call the network.
        sizes: As in `run_on_noise`.
        example_NCHW: Images to run it on, in the place of noise.

    Raises:
        ConfigError: As `run_on_noise`.
    """

    def look(images_NCHW: Tensor) -> Probe:
        return _look(network, layers, images_NCHW)

    return run_on_noise(network, look, side, sizes) if example_NCHW is None else look(example_NCHW)


def _look(network: nn.Module, layers: Collection[str], images_NCHW: Tensor) -> Probe:
    entered: set[str] = set()
    completed: set[str] = set()

    def mark(name: str, into: set[str]) -> Any:
        return lambda *_: into.add(name)

    def used() -> set[str]:
        # Some code calls a module's `forward`, past its hooks: what ran inside it tells.
        inside = {name[:i] for name in entered for i, c in enumerate(name) if c == '.'}
        return {k for k in network.state_dict() if _is_used(k, entered | inside, completed)}

    with ExitStack() as hooks, evaluating(network):
        for name, module in network.named_modules():
            hooks.enter_context(module.register_forward_pre_hook(mark(name, entered)))
            hooks.enter_context(module.register_forward_hook(mark(name, completed)))
        # A full run, since what changes an output comes after it, or another call of its layer.
        with Recorder(network, layers) as taps:
            result = run_whole(network, images_NCHW, layers)
            modified_in_place, calls = taps.modified_in_place, taps.calls
        used_in_all = used()
        entered.clear()
        completed.clear()
        with torch.enable_grad():
            outputs = run_to_layers(
                network, images_NCHW, [n for n in layers if n in calls], (), calls
            )
        learning = {name for name, output in outputs.items() if output.requires_grad}
        outputs = {name: output.detach() for name, output in outputs.items()}
        return Probe(
            images_NCHW=images_NCHW,
            outputs=outputs,
            scored_classes=_scored_classes(network, outputs, result),
            learning=learning,
            modified_in_place=modified_in_place,
            calls=calls,
            used=used(),
            used_in_all=used_in_all,
        )


def modified_by_dropout(
    network: nn.Module, layers: Collection[str], images_NCHW: Tensor
) -> set[str]:
    """Layers whose output is changed in place in training alone, by `Dropout(inplace=True)`."""
    dropouts = [m for m in network.modules() if isinstance(m, _DropoutNd) and m.inplace]
    if not dropouts:
        return set()
    # All else stays in eval mode: BatchNorm keeps its statistics and takes a map of one pixel.
    with (
        keep_random_state(images_NCHW.device),
        evaluating(network),
        Recorder(network, layers) as taps,
    ):
        for module in dropouts:
            module.train()
        run_whole(network, images_NCHW, layers)
        return taps.modified_in_place


def _scored_classes(
    network: nn.Module, outputs: Mapping[str, Tensor], result: Any
) -> dict[str, int]:
    """How many classes the outputs tell apart that are scores, by layer.

    Scores are what the network says to be, and what holds the values of its result.
    """
    found = {}
    for name, output in outputs.items():
        is_plain = parse_tap_name(name).is_plain
        classes = as_network(network).scored_classes(name) if is_plain else None
        if classes is None and isinstance(result, Tensor) and output.numel() == result.numel():
            values = output.flatten().sort().values
            is_result = result.ndim == 4 and torch.equal(values, result.flatten().sort().values)
            classes = result.shape[1] if is_result else None
        if classes is not None:
            found[name] = classes
    return found


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
