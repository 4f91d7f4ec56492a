"""Networks in the memory format channels_last."""

from __future__ import annotations

import torch
from torch import nn

from mmseg_kd.errors import ConfigError
from mmseg_kd.networks.forward import run_whole
from mmseg_kd.networks.probe import evaluating, run_on_noise


def use_channels_last(network: nn.Module, side: str) -> None:
    """Put a network's weights into channels_last, and try it on an image of noise.

    Its images may stay as they are: a convolution takes the format of its weights.

    Args:
        network: The network.
        side: What messages call it.

    Raises:
        ConfigError: The network fails in this format.
    """
    network.to(memory_format=torch.channels_last)
    try:
        with evaluating(network):
            run_on_noise(network, lambda images_NCHW: run_whole(network, images_NCHW), side)
    except ConfigError as error:
        raise ConfigError(
            f'channels_last: the {side} fails in this memory format; leave the option out. {error}'
        ) from error
