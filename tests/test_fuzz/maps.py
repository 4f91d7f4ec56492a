"""Maps of every dtype, layout and size of values."""

from __future__ import annotations

import torch
from torch import Tensor

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
LAYOUTS = ['contiguous', 'channels_last', 'transposed', 'every other', 'inside another']
KINDS = ['normal', 'signs', 'spike', 'level', 'slope']


def values(shape: tuple[int, ...], seed: int, kind: str = 'normal', scale: float = 1.0) -> Tensor:
    """Values in float64, the largest about `scale`."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    if kind == 'signs':
        x = x.sign()
    elif kind == 'spike':
        x = (x == x.max()).double()
    elif kind == 'level':
        x = torch.full_like(x, float(x.flatten()[0]))
    elif kind == 'slope':
        x = torch.linspace(-1, 1, x.numel(), dtype=torch.float64).view(shape)
    return x * scale


def laid_out(x_NChw: Tensor, layout: str) -> Tensor:
    """The same values in another layout of memory."""
    if layout == 'channels_last':
        return x_NChw.contiguous(memory_format=torch.channels_last)
    if layout == 'transposed':
        return x_NChw.transpose(2, 3).contiguous().transpose(2, 3)
    if layout == 'every other':
        return x_NChw.repeat_interleave(2, 1).repeat_interleave(2, 3)[:, ::2, :, ::2]
    if layout == 'inside another':
        return torch.nn.functional.pad(x_NChw, (1, 2, 3, 4))[:, :, 3:-4, 1:-2]
    return x_NChw
