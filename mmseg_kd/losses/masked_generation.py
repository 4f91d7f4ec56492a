"""What generates the teacher's map from parts of the student's."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def random_mask(x_NChw: Tensor, ratio: float, over_channels: bool = False) -> Tensor:
    """Zeros and ones, zero with probability `ratio`, from PyTorch's default generator.

    Args:
        x_NChw: What is masked.
        ratio: From 0 to 1.
        over_channels: Whole channels are masked, (N, C, 1, 1), and not positions, (N, 1, h, w).
    """
    n, c, h, w = x_NChw.shape
    shape = (n, c, 1, 1) if over_channels else (n, 1, h, w)
    uniform = torch.rand(shape, device=x_NChw.device)
    return (uniform <= 1 - ratio).to(x_NChw.dtype)


def centre_mask(x_NChw: Tensor) -> Tensor:
    """Ones, and zeros in the middle third of both directions, (1, 1, h, w)."""
    h, w = x_NChw.shape[-2:]
    mask_11hw = x_NChw.new_ones(1, 1, h, w)
    mask_11hw[..., h // 3 : 2 * h // 3, w // 3 : 2 * w // 3] = 0
    return mask_11hw


class Generator(nn.Module):
    """Two 3x3 convolutions with a ReLU between, all of one number of channels.

    Args:
        channels: What comes in and goes out.
        enhanced: The output is the mean of a third convolution of what the first gives and of a
            fourth of what the second gives, each after a ReLU.
    """

    def __init__(self, channels: int, enhanced: bool = False) -> None:
        super().__init__()

        def conv() -> nn.Conv2d:
            return nn.Conv2d(channels, channels, 3, padding=1)

        self.conv1, self.conv2 = conv(), conv()
        self.enhanced = enhanced
        if enhanced:
            self.adaptor1, self.adaptor2 = conv(), conv()

    def forward(self, x_NChw: Tensor) -> Tensor:
        """(N, channels, h, w) to the same."""
        first_NChw = self.conv1(x_NChw).relu()
        second_NChw: Tensor = self.conv2(first_NChw)
        if not self.enhanced:
            return second_NChw
        out_NChw: Tensor = self.adaptor1(first_NChw) + self.adaptor2(second_NChw.relu())
        return out_NChw / 2
