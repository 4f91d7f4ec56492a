"""Both sides on one scale."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from mmseg_kd.checks import one_of, positive
from mmseg_kd.registry import CONNECTORS

Over = Literal['batch', 'image', 'position']

# The dimensions of a map (N, C, h, w) that mean and variance are taken over.
_DIMS = {'batch': (0, 2, 3), 'image': (2, 3), 'position': (1,)}


@CONNECTORS.register_module()
class NormConnector(nn.Module):
    """Mean 0 and variance 1 on both sides, so that only the pattern of features is compared.

    Statistics are those of the maps themselves: nothing is learnt or remembered. Channels stay as
    many as they are; where they differ put a connector that changes them before this one, in a
    `ChainConnector`.

    Reference: for `over='batch'` Cao et al., PKD: General Distillation Framework for Object
    Detectors via Pearson Correlation Coefficient, NeurIPS 2022, arXiv 2207.02039.

    Args:
        student_channels, teacher_channels: Channels of both sides.
        over: What mean and variance are taken over: each channel's values in the whole batch of
            this process ('batch'), its values in each image ('image'), or the channels of each
            position ('position').
        eps: Is added to the variance, > 0.

    Raises:
        ValueError: An argument is out of its range.
    """

    # For chains: what comes out has the channels that came in.
    keeps_channels = True

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        over: Over = 'batch',
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.dims = _DIMS[one_of('over', over, get_args(Over))]
        self.eps = positive('eps', eps)

    def forward(self, student_NChw: Tensor) -> Tensor:
        """(N, C, h, w), normalised; at least float32."""
        with torch.autocast(student_NChw.device.type, enabled=False):
            x_NChw = student_NChw.to(torch.promote_types(student_NChw.dtype, torch.float32))
            variance, mean = torch.var_mean(x_NChw, self.dims, correction=0, keepdim=True)
            return (x_NChw - mean) * (variance + self.eps).rsqrt()

    def of_teacher(self, teacher_NChw: Tensor) -> Tensor:
        """The same for the teacher's map."""
        return self(teacher_NChw)  # type: ignore[no-any-return]
