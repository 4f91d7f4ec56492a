"""Runs of any network: as a whole, and no further than to its taps."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

from torch import Tensor, nn

from mmseg_kd.networks.mmseg_network import MMSegNetwork
from mmseg_kd.networks.module_network import ModuleNetwork
from mmseg_kd.networks.network import Network
from mmseg_kd.networks.recorder import ForwardStopped, Recorder


def as_network(module: nn.Module) -> Network:
    """What distillation sees of a module."""
    if isinstance(module, Network):
        return module
    return MMSegNetwork(module) if MMSegNetwork.fits(module) else ModuleNetwork(module)


def run_whole(module: nn.Module, images_NCHW: Tensor, layers: Collection[str] = ()) -> Any:
    """What a forward pass gives, in which `layers` run too."""
    network = as_network(module)
    with network.running(layers):
        return network.run(images_NCHW)


def run_to_layers(
    module: nn.Module,
    images_NCHW: Tensor,
    layers: Collection[str],
    modified_in_place: Collection[str] = (),
    calls: Mapping[str, int] | None = None,
) -> dict[str, Tensor]:
    """The outputs of `layers`, running no further than to the last of them.

    Args:
        module: The network.
        images_NCHW: Images, prepared for it.
        layers: Names as in `find_tap`. One that does not run is absent from the result.
        modified_in_place: As in `Recorder`.
        calls: How often each layer runs in a forward pass, where it is not once; None: that is not
            known, and the network runs to its end.
    """
    with Recorder(module, layers, modified_in_place, calls) as taps:
        with suppress(ForwardStopped):
            run_whole(module, images_NCHW, layers)
        return taps.outputs
