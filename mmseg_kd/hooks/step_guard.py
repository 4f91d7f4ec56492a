"""What stands between a loss and the optimiser: no step with NaN or infinity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.dist import all_gather_object
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from mmseg_kd.hooks.non_finite_layers import last_non_finite_gradient
from mmseg_kd.teacher.averaged import Averaged


@dataclass(frozen=True)
class Verdict:
    """What became of a step.

    Attributes:
        is_taken: The optimiser took it.
        is_counted: It was kept from the optimiser, and not by the loss scaler.
        gradient: Where the gradient is not finite.
    """

    is_taken: bool
    is_counted: bool = False
    gradient: str | None = None


class StepGuard:
    """Stands between the loss and the optimiser of an `OptimWrapper`.

    Args:
        optim_wrapper: Its `backward` and `step` are replaced.
        model: Whose buffers, averages and gradients are watched.
    """

    def __init__(self, optim_wrapper: OptimWrapper, model: nn.Module) -> None:
        self.verdict: Verdict | None = None
        self._scaler = getattr(optim_wrapper, 'loss_scaler', None)
        # A fixed scale never comes down.
        self._is_fixed = getattr(optim_wrapper, '_scale_update_param', None) is not None
        self._parameters = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        # Averages of the student move in its forward pass; other frozen weights stay as they are.
        averages = [module for module in model.modules() if isinstance(module, Averaged)]
        self._buffers = [*model.buffers(), *(p for one in averages for p in one.parameters())]
        self._kept = [buffer.clone() for buffer in self._buffers]
        self._losses_are_finite: Tensor | None = None
        self._backward, self._step = optim_wrapper.backward, optim_wrapper.step
        optim_wrapper.backward = self.backward
        optim_wrapper.step = self.step

    @property
    def scale(self) -> float | None:
        """That of the loss; None without a scaler."""
        return None if self._scaler is None else float(self._scaler.get_scale())

    def keep_buffers(self) -> None:
        """Remember them as they are before a step."""
        _copy(self._buffers, self._kept)

    def restore_buffers(self) -> None:
        """Make them what they were before the step."""
        _copy(self._kept, self._buffers)

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """As the wrapper's; a loss that is not finite gives no finite gradient."""
        is_finite = loss.detach().isfinite()
        if self._losses_are_finite is not None:
            is_finite = is_finite & self._losses_are_finite
        self._losses_are_finite = is_finite
        self._backward(loss * torch.where(is_finite, 1.0, torch.nan), **kwargs)

    def step(self, **kwargs: Any) -> None:
        """As the wrapper's, if the numbers are fit for it."""
        losses_are_finite, self._losses_are_finite = self._losses_are_finite, None
        gradients = [p.grad for _, p in self._parameters if p.grad is not None]
        if bool(get_total_norm(gradients, norm_type=math.inf).isfinite()):
            self._step(**kwargs)
            self.verdict = Verdict(is_taken=True)
            return
        # All ranks have this gradient, and come here together.
        mine = losses_are_finite is None or bool(losses_are_finite)
        if self._scaler_may_help() and all(all_gather_object(mine)):
            self._step(**kwargs)  # leaves the optimiser alone and lowers the scale
            self.verdict = Verdict(is_taken=False)
            return
        gradient = last_non_finite_gradient(self._parameters)
        self.verdict = Verdict(is_taken=False, is_counted=True, gradient=gradient)
        self.restore_buffers()

    def _scaler_may_help(self) -> bool:
        return not self._is_fixed and self.scale is not None and self.scale >= 1


def _copy(source: Sequence[Tensor], target: Sequence[Tensor]) -> None:
    if source:
        with torch.no_grad():
            torch._foreach_copy_(list(target), list(source))
