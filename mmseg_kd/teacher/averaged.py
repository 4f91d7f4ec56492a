"""The moving average of a network that trains."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import torch
from mmengine.dist import broadcast, get_world_size
from torch import Tensor, nn


class Averaged(nn.Module):
    """A copy of a network whose weights and statistics follow it as moving averages.

    It is in eval mode for ever, and its weights are frozen: it is saved and moved with the module
    that holds it, and no optimiser or DDP waits for its gradients.

    Args:
        source: The network.
        momentum: The share of the source in an update, > 0 and <= 1; in the first updates more,
            1 / n in the n-th, so that what comes out is the mean of all there were.
    """

    updates: Tensor

    def __init__(self, source: nn.Module, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.network: Any = copy.deepcopy(source).requires_grad_(False).eval()
        self.register_buffer('updates', torch.zeros((), dtype=torch.long))

    def train(self, mode: bool = True) -> Averaged:
        """Stay in eval mode."""
        return self

    @torch.no_grad()
    def update(self, source: nn.Module) -> None:
        """Move towards the source; on all ranks to the same, with the statistics of rank 0."""
        self.updates += 1
        share = (1.0 / self.updates).clamp(min=self.momentum)
        statistics = {name: tensor.detach() for name, tensor in source.named_buffers()}
        theirs = {**dict(source.named_parameters()), **_of_rank_zero(statistics)}
        for name, ours in itertools.chain(
            self.network.named_parameters(), self.network.named_buffers()
        ):
            if ours.is_floating_point():
                ours.lerp_(theirs[name], share.to(ours.dtype))
            else:
                ours.copy_(theirs[name])


def _of_rank_zero(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as rank 0 has them, sent in one piece a dtype."""
    if get_world_size() == 1:
        return tensors
    found = dict(tensors)
    # In the order of the tensors: that of a set is another one on each rank.
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors.values()):
        names = [name for name, tensor in tensors.items() if tensor.dtype == dtype]
        if not any(tensors[name].numel() for name in names):
            continue
        flat = torch.cat([tensors[name].flatten() for name in names])
        broadcast(flat, src=0)
        parts = flat.split([tensors[name].numel() for name in names])
        found |= {n: part.view_as(tensors[n]) for n, part in zip(names, parts, strict=True)}
    return found
