"""Divergences of interpolated maps, from sums that each map gives alone.

With A the logarithm of the sum of a softmax's exponentials, which is convex, KL(teacher || student)
is how far A lies above its tangent at the teacher:

    KL = A(student) - A(teacher) - <grad A(teacher), student - teacher>

The gradient of A is the softmax. Taken of a map before its interpolation, it is the softmax of what
is interpolated, brought back to the map's own size by the transposed interpolation. So for each map
A and its gradient are computed alone, and all else at the maps' own sizes: the gradient of the loss
is the difference of both.

Interpolated values are at most the largest at the map's own size, for weights are at least zero and
sum to one. Less that largest one, taken off before the interpolation, no exponential overflows, and
there is no pass for maxima. Only where what takes part lies far below it, exponentials can vanish:
their sum tells, and the true maximum is taken.

Shapes: N images, C channels, h x w the maps' own sizes, H x W that of the result, G groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_kd.losses.kernels.backend import Backend, Size
from mmseg_kd.losses.kernels.interpolation import full_precision

# Sums of exponentials below it are computed anew. Above it what has vanished from a sum, below
# 2^-126 each, is nothing beside it.
FLOOR = 2.0**-60


class Divergence(torch.autograd.Function):
    """The sum of all divergences, of pixels or of groups, divided by their number.

    By pixel where `group_size` is None; see `at_size` for the other arguments.
    """

    @staticmethod
    @full_precision()
    def forward(
        ctx: Any,
        student_NChw: Tensor,
        teacher_NChw: Tensor,
        backend: Backend,
        group_size: int | None,
        tau: float,
    ) -> Tensor:
        n, c, *_ = student_NChw.shape
        assert teacher_NChw.shape[:2] == (n, c)
        count: Any = n * backend.size[0] * backend.size[1]
        if group_size is not None:
            # Numbers in kernels stay small, however large it is.
            group_size = min(group_size, c)
            count = n * -(-c // group_size)
        elif backend.mask_NHW is not None:
            count = backend.mask_NHW.sum().clamp(min=1).double()

        softmax = _Softmax(backend, group_size, tau)
        size, teacher_size = ((x.shape[2], x.shape[3]) for x in (student_NChw, teacher_NChw))
        to = [size] if size == teacher_size else [size, teacher_size]
        s_NChw, t_NChw = softmax.logits(student_NChw), softmax.logits(teacher_NChw)
        for is_exact in (False, True):
            s_log_sum, (gradient_NChw,), is_fine_s = softmax(s_NChw, [size], is_exact)
            t_log_sum, p_NChw, is_fine_t = softmax(t_NChw, to, is_exact)
            # One look at both: on a GPU it waits for all before it.
            if bool(is_fine_s & is_fine_t):
                break
        # The product of the softmax and the difference of the maps, in place of these.
        if len(to) == 1:
            product = _product(t_NChw.sub_(s_NChw), p_NChw[0])
        else:
            product = _product(t_NChw, p_NChw[1]) - _product(s_NChw, p_NChw[0])
        if ctx.needs_input_grad[0]:
            gradient_NChw -= p_NChw[0]
            ctx.save_for_backward(gradient_NChw, student_NChw)
        ctx.divisor = tau * count
        loss: Tensor = (product + s_log_sum - t_log_sum) / count
        return loss.to(s_NChw.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gradient_NChw, student_NChw = ctx.saved_tensors
        # In float32 until the factor of a gradient scaler is in: float16 loses small numbers.
        gradient_NChw = (gradient_NChw * (grad / ctx.divisor)).to(student_NChw.dtype)
        return OnceDifferentiable.apply(gradient_NChw, student_NChw), *[None] * 4


def _product(x_NChw: Tensor, y_NChw: Tensor) -> Tensor:
    return x_NChw.mul_(y_NChw).sum(3).sum(dtype=torch.float64)


class OnceDifferentiable(torch.autograd.Function):
    """A gradient as it is, which refuses to be differentiated once more."""

    @staticmethod
    def forward(ctx: Any, gradient_NChw: Tensor, student_NChw: Tensor) -> Tensor:
        return gradient_NChw

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        raise RuntimeError(
            'the distillation losses have no second derivative; take the plain formulas of '
            'mmseg_kd.losses.functional for one.'
        )


@dataclass(frozen=True)
class _Softmax:
    """The softmax of interpolated maps divided by tau, over each pixel or over each group."""

    backend: Backend
    group_size: int | None
    tau: float

    def logits(self, x_NChw: Tensor) -> Tensor:
        """The map divided by tau, less the largest value of each pixel, or group."""
        x_NChw = self.backend.divided(x_NChw, self.tau)
        hidden_N1hw = None
        if self.backend.mask_NHW is not None:
            # Values that no pixel of the mask lies next to may be anything.
            n, _, h, w = x_NChw.shape
            _, (reach_N1hw,) = self.backend.exponentials(x_NChw.new_zeros(n, 1, h, w), [(h, w)])
            hidden_N1hw = reach_N1hw == 0
            x_NChw.masked_fill_(hidden_N1hw, -torch.inf)
        if self.group_size is None:
            x_NChw -= x_NChw.amax(1, keepdim=True)
        else:
            largest_NG = self._largest_NG(x_NChw.amax((2, 3)))
            x_NChw -= self._of_channels(largest_NG, x_NChw)[..., None, None]
        return x_NChw if hidden_N1hw is None else x_NChw.masked_fill_(hidden_N1hw, 0.0)

    def __call__(
        self, x_NChw: Tensor, to: Sequence[Size], is_exact: bool
    ) -> tuple[Tensor, list[Tensor], Tensor | bool]:
        """What `Backend.pixel_softmax` returns, or the same of groups; and whether it is right.

        Args:
            x_NChw: Logits.
            to: As there.
            is_exact: It must be, for which maxima of groups are computed.
        """
        if self.group_size is None:
            return *self.backend.pixel_softmax(x_NChw, to), True
        largest_NG = shift_NC = None
        if is_exact:
            # Not taken off the map itself: what interpolation rounds may be more than exponents
            # hold.
            largest_NG = self._largest_NG(self.backend.largest(x_NChw))
            if self.backend.mask_NHW is not None:
                largest_NG.masked_fill_(self._is_empty_N1(), 0.0)
            shift_NC = self._of_channels(largest_NG, x_NChw)
        sum_NC, parts = self.backend.exponentials(x_NChw, to, shift_NC)
        sum_NG = self._by_group(sum_NC, 0.0).sum(2)
        if self.backend.mask_NHW is not None:
            # Where nothing takes part, there is nothing to divide by zero.
            sum_NG.masked_fill_(self._is_empty_N1(), 1.0)
        for part_NChw in parts:
            part_NChw /= self._of_channels(sum_NG, x_NChw)[..., None, None]
        log_sum = sum_NG.log().sum()
        if largest_NG is not None:
            log_sum += largest_NG.sum(dtype=torch.float64)
        return log_sum, parts, ((sum_NG >= FLOOR) & (sum_NG < torch.inf)).all()

    def _is_empty_N1(self) -> Tensor:
        assert self.backend.mask_NHW is not None
        return ~self.backend.mask_NHW.flatten(1).any(1, keepdim=True)

    def _largest_NG(self, largest_NC: Tensor) -> Tensor:
        return self._by_group(largest_NC, -torch.inf).amax(2)

    def _by_group(self, x_NC: Tensor, fill: float) -> Tensor:
        """Values of channels by their groups, (N, G, K); the last group is filled up."""
        assert self.group_size is not None
        padding = -x_NC.shape[1] % self.group_size
        x_NC = F.pad(x_NC, (0, padding), value=fill)
        x_NGK: Tensor = x_NC.unflatten(1, (-1, self.group_size))
        return x_NGK

    def _of_channels(self, x_NG: Tensor, like_NChw: Tensor) -> Tensor:
        """Values of groups for each channel (N, C) of a map, in its dtype."""
        assert self.group_size is not None
        x_NC = x_NG[..., None].expand(-1, -1, self.group_size).flatten(1)
        return x_NC[:, : like_NChw.shape[1]].to(like_NChw.dtype)
