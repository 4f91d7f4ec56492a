"""From the student's channels to the teacher's, token by token."""

from __future__ import annotations

from torch import Tensor, nn

from mmseg_kd.checks import at_least_one
from mmseg_kd.registry import CONNECTORS


@CONNECTORS.register_module()
class LinearConnector(nn.Module):
    """A linear layer over the channels of each token, or two with a GELU between them.

    Reference: the linear map W_h of Jiao et al., TinyBERT: Distilling BERT for Natural Language
    Understanding, Findings of EMNLP 2020, arXiv 1909.10351, equation 8.

    Args:
        student_channels: Channels that come in.
        teacher_channels: Channels that go out.
        bias: Whether the layers have one.
        hidden_channels: Channels between two layers. None: one layer.

    Raises:
        ValueError: `hidden_channels` is no whole number >= 1.
    """

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        bias: bool = True,
        hidden_channels: int | None = None,
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(student_channels, teacher_channels, bias))
        if hidden_channels is not None:
            at_least_one('hidden_channels', hidden_channels)
            self.layers = nn.Sequential(
                nn.Linear(student_channels, hidden_channels, bias),
                nn.GELU(),
                nn.Linear(hidden_channels, teacher_channels, bias),
            )

    def forward(self, student: Tensor) -> Tensor:
        """Tokens (N, L, student_channels) or a map (N, student_channels, h, w), as they are."""
        tokens: Tensor = student.movedim(1, -1) if student.ndim == 4 else student
        mapped: Tensor = self.layers(tokens)
        return mapped.movedim(-1, 1) if student.ndim == 4 else mapped
