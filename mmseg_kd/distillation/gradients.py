"""How the gradients of two losses lie to each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn

from mmseg_kd.losses.functional import at_least_float32


@dataclass(frozen=True)
class Comparison:
    """The gradient of the task beside that of a term.

    Attributes:
        task_norm, term_norm: Their L2 norms.
        cosine: Of the angle between them; NaN where a gradient is zero or not finite.
    """

    task_norm: float
    term_norm: float
    cosine: float


def gradients(loss: Tensor, over: Sequence[Tensor]) -> list[Tensor | None]:
    """The gradient of a loss over each of some tensors; the graph stays.

    Args:
        loss: A scalar.
        over: The tensors. That of one on which the loss does not depend is None.
    """
    if not loss.requires_grad:
        return [None] * len(over)
    with torch.autocast(loss.device.type, enabled=False):
        return list(torch.autograd.grad(loss, over, retain_graph=True, allow_unused=True))


def gradient(loss: Tensor, over: Sequence[Tensor]) -> Tensor:
    """The same as one vector of float32 at least, 0 where the loss does not depend on a tensor."""
    found = zip(gradients(loss, over), over, strict=True)
    parts = [torch.zeros_like(tensor) if part is None else part for part, tensor in found]
    return torch.cat([at_least_float32(part).flatten() for part in parts])


def compare(of_task: Tensor, of_term: Tensor, is_part: bool = False) -> Comparison:
    """Compare the gradients of a task and of a term.

    Args:
        of_task, of_term: Vectors.
        is_part: Whether each rank has a part of them, as of activations, and not all of them.
    """
    products = torch.stack([of_task @ of_task, of_term @ of_term, of_task @ of_term])
    if is_part:
        all_reduce(products)
    task, term, dot = products.tolist()
    norms = task**0.5, term**0.5
    cosine = dot / (norms[0] * norms[1]) if task > 0 and term > 0 else float('nan')
    # Rounding may leave [-1, 1] by a little.
    return Comparison(*norms, cosine if cosine != cosine else min(max(cosine, -1.0), 1.0))


def recomputing_layer(network: nn.Module) -> str | None:
    """The first layer that recomputes its activations, which allows no look at gradients."""
    layers = network.named_modules()
    return next((name for name, layer in layers if getattr(layer, 'with_cp', False)), None)
