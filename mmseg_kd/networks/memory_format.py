"""Networks in the memory format channels_last."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from mmseg_kd.errors import ConfigError
from mmseg_kd.host.quiet import explain


def use_channels_last(network: nn.Module, label: str, dry_run: Callable[[], object]) -> None:
    """Put a network's weights into channels_last, and try it.

    Its images may stay as they are: a convolution takes the format of its weights.

    Args:
        network: The network.
        label: What messages call what has the option.
        dry_run: Runs it once.

    Raises:
        ConfigError: The network fails in this format.
    """
    network.to(memory_format=torch.channels_last)
    try:
        dry_run()
    except Exception as error:  # whatever a network raises, such as of a view
        raise ConfigError(
            f'{label}.channels_last: the network fails in this memory format; leave the option '
            f'out. {explain(error)}'
        ) from error
