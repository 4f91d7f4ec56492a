"""Attention without the weights that nobody reads."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn

from mmseg_kd.networks.tap_name import parse_tap_name

# Blocks that ask nn.MultiheadAttention for its weights and drop them, by name: a network of other
# packages is no reason to import these.
_BLOCKS = {
    'mmcv.cnn.bricks.transformer.MultiheadAttention',
    'mmseg.models.backbones.mit.EfficientMultiheadAttention',
}


def use_fused_attention(network: nn.Module, tapped: Collection[str] = ()) -> int:
    """Let the attention of mmcv's and mmseg's transformer blocks compute no weights.

    Where weights are asked for, PyTorch writes them out, L x S numbers a head; where they are
    not, it takes its fused attention, equal to rounding, in less time and without that memory.
    The blocks ask for them and use the outputs alone.

    Args:
        network: Any network; blocks of other types stay as they are.
        tapped: Names of taps: attention whose weights are among them keeps them.

    Returns:
        How many layers of attention it was.
    """
    count = 0
    # Of what attention puts out as a whole a function or a key may take the weights.
    read = {one.layer for one in map(parse_tap_name, tapped) if not one.is_input}
    for name, block in network.named_modules():
        kind = type(block)
        is_block = f'{kind.__module__}.{kind.__qualname__}' in _BLOCKS
        if is_block and read.isdisjoint((f'{name}.attn', f'{name}.attn.weights')):
            block.attn.register_forward_pre_hook(_ask_for_no_weights, with_kwargs=True)
            count += 1
    return count


def _ask_for_no_weights(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, {**kwargs, 'need_weights': False}
