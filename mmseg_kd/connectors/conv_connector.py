"""From the student's channels to the teacher's."""

from __future__ import annotations

from torch import Tensor, nn

from mmseg_kd.checks import is_integer
from mmseg_kd.errors import short_repr
from mmseg_kd.registry import CONNECTORS


@CONNECTORS.register_module()
class ConvConnector(nn.Module):
    """A convolution from the student's to the teacher's channels, trained with the student.

    Reference: the regressor of Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015,
    arXiv 1412.6550, section 2.2.

    Args:
        student_channels: Channels that come in.
        teacher_channels: Channels that go out.
        kernel_size: An odd number; 1 looks at each position alone.
    """

    def __init__(self, student_channels: int, teacher_channels: int, kernel_size: int = 1) -> None:
        super().__init__()
        if not (is_integer(kernel_size) and kernel_size >= 1 and kernel_size % 2):
            raise ValueError(
                f'kernel_size must be a whole number, odd and >= 1, got {short_repr(kernel_size)}.'
            )
        self.conv = nn.Conv2d(
            student_channels, teacher_channels, kernel_size, padding=kernel_size // 2
        )

    def forward(self, student_NChw: Tensor) -> Tensor:
        """(N, student_channels, h, w) to (N, teacher_channels, h, w)."""
        mapped: Tensor = self.conv(student_NChw)
        return mapped
