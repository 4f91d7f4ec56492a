"""What a network costs: parameters, and operations for one image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from mmengine.analysis import FlopAnalyzer
from torch import nn

from mmseg_kd.networks.forward import as_network
from mmseg_kd.networks.probe import evaluating

COUNTED = (
    'A multiply-add is counted once. Counted are convolutions, linear layers, the products of '
    "matrices, attention's among them, normalisation and interpolation; not activations, softmax "
    'and sums.'
)


@dataclass(frozen=True)
class Part:
    """What a network or a part of it costs.

    Attributes:
        parameters: How many.
        flops: Operations for one image, a multiply-add counted once; 0 for what does not run in
            a prediction, such as auxiliary heads.
    """

    parameters: int
    flops: int


@dataclass(frozen=True)
class Complexity:
    """What a network costs.

    Attributes:
        whole: All of it.
        parts: What it is made of at the top, by name: backbone, neck, heads.
    """

    whole: Part
    parts: Mapping[str, Part]


def complexity(network: nn.Module, size: tuple[int, int]) -> Complexity:
    """Count the parameters of `network`, and its operations for one image of `size`.

    The network runs once, in tensor mode: without what brings the scores to the image's size.
    """
    device = next(network.parameters()).device
    with evaluating(network):
        image_1CHW = torch.randn(1, as_network(network).channels, *size, device=device)
        analyzer = FlopAnalyzer(network, (image_1CHW,))
        # The hosts' counter does not know the attention that computes no weights.
        analyzer.set_op_handle(**{'aten::scaled_dot_product_attention': _attention_flops})
        analyzer.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        flops = analyzer.by_module()
    found = {n: (_parameters(m), int(flops[n])) for n, m in network.named_children()}
    # mmseg calls a head by its `forward`, which hides from the counter whose operations these are.
    rest = int(flops['']) - sum(operations for _, operations in found.values())
    parts = {
        name: Part(parameters, operations + rest * (name == 'decode_head'))
        for name, (parameters, operations) in found.items()
        if parameters
    }
    return Complexity(Part(_parameters(network), int(flops[''])), parts)


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _attention_flops(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    """Of softmax(Q K^T) V; Q (..., L, E), K (..., S, E) and V (..., S, F) are values of a trace."""
    query, key, value = (one.type().sizes() for one in inputs[:3])
    return int(prod(query[:-1]) * key[-2] * (query[-1] + value[-1]))
