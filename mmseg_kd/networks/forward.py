"""Runs of a network: as a whole, and no further than to its taps."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from torch import Tensor, nn

from mmseg_kd.networks.recorder import ForwardStopped, Recorder

# Large enough for every backbone's total stride, small enough to cost nothing.
PROBE_SIZE = (128, 128)


def run_auxiliary_heads(network: Any, features: Any) -> None:
    """Run the heads that mmseg runs in training only, where there are any.

    As mmseg does, by their `forward`: hooks on a head itself do not fire.
    """
    heads = getattr(network, 'auxiliary_head', None) or []
    for head in heads if isinstance(heads, nn.ModuleList | list) else [heads]:
        head.forward(features)


@contextmanager
def kept_features(network: Any, stop: bool = False) -> Iterator[list[Any]]:
    """A list that gets what the heads of `network` are fed with, as soon as it is there.

    Args:
        stop: Raise `ForwardStopped` then.
    """
    features: list[Any] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        features.append(output)
        if stop:
            raise ForwardStopped

    source = network.get_submodule('neck' if network.with_neck else 'backbone')
    handle = source.register_forward_hook(keep)
    try:
        yield features
    finally:
        handle.remove()


def run_whole(network: Any, images_NCHW: Tensor, auxiliary: bool) -> Any:
    """What tensor mode gives: for most networks scores (N, C, h, w).

    Args:
        auxiliary: Run the auxiliary heads too, which mmseg leaves out in this mode.
    """
    with kept_features(network) as features:
        scores = network(images_NCHW, mode='tensor')
    if auxiliary:
        run_auxiliary_heads(network, features[-1])
    return scores


def is_auxiliary(layer: str) -> bool:
    """Whether a layer is in an auxiliary head."""
    return layer.split('.')[0] == 'auxiliary_head'


def run_to_layers(
    network: Any,
    images_NCHW: Tensor,
    layers: Collection[str],
    modified_in_place: Collection[str] = (),
) -> dict[str, Tensor]:
    """The outputs of `layers`, running no further than to the last of them.

    The network runs in tensor mode, in which mmseg leaves auxiliary heads out; those are run
    on the same features where a layer of theirs is asked for. A layer that does not run is
    absent from the result.
    """
    auxiliary = [name for name in layers if is_auxiliary(name)]
    main = [name for name in layers if name not in auxiliary]
    if not auxiliary:
        with Recorder(network, main, modified_in_place, stop=True) as taps:
            with suppress(ForwardStopped):
                network(images_NCHW, mode='tensor')
            return taps.outputs
    with (
        Recorder(network, main, modified_in_place) as taps,
        Recorder(network, auxiliary, modified_in_place, stop=True) as auxiliary_taps,
        kept_features(network, stop=not main) as features,
    ):
        with suppress(ForwardStopped):
            network(images_NCHW, mode='tensor')
        with suppress(ForwardStopped):
            run_auxiliary_heads(network, features[-1])
        return taps.outputs | auxiliary_taps.outputs
