"""Tokens that say where in the teacher's map something is, learnt on the teacher alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, distributed, nn

from mmseg_kd.host.iteration import current_iteration
from mmseg_kd.losses.cross_entropy import cross_entropy_sums

LEARNING_RATE = 0.1
WEIGHT_DECAY = 1e-3


class ReceptiveTokens(nn.Module):
    """Tokens that learn in the first iterations of a training and are fixed from then on.

    They are a buffer with a plain gradient descent of its own (learning rate 0.1, weight decay
    1e-3), whatever trains the student; the gradient is the mean over the ranks, so that they are
    the same on all.

    Args:
        shape: Of the tokens, the channels last.
        iterations: How many, >= 0; counted by the runner or by `at_iteration`.
    """

    tokens: Tensor

    def __init__(self, shape: tuple[int, ...], iterations: int) -> None:
        super().__init__()
        self.register_buffer('tokens', 0.01 * torch.randn(shape))
        self.iterations = iterations

    @torch.no_grad()
    def updated(self, value_of: Callable[[Tensor], Tensor]) -> Tensor:
        """The tokens, after a step of descent on `value_of` where they still learn.

        Args:
            value_of: What is to become small, of the tokens.
        """
        if self.training and self.iterations and current_iteration() < self.iterations:
            with torch.enable_grad():
                tokens = self.tokens.clone().requires_grad_()
                (gradient,) = torch.autograd.grad(value_of(tokens), tokens)
            if distributed.is_available() and distributed.is_initialized():
                distributed.all_reduce(gradient)
                gradient /= distributed.get_world_size()
            self.tokens -= LEARNING_RATE * (gradient + WEIGHT_DECAY * self.tokens)
        return self.tokens


def token_masks(tokens_KC: Tensor, x_NChw: Tensor) -> Tensor:
    """Masks (N, K, h, w) from 0 to 1: the sigmoid of a position's products with the tokens."""
    return torch.einsum('kc,nchw->nkhw', tokens_KC.to(x_NChw.dtype), x_NChw).sigmoid()


def overlap(mask_NKP: Tensor) -> Tensor:
    """Mean Dice coefficient of an image's pairs of masks, 0 of a single one.

    Args:
        mask_NKP: Masks over P positions.
    """
    n, k, _ = mask_NKP.shape
    square_NK = mask_NKP.square().sum(2)
    dice_NKK = 2 * mask_NKP @ mask_NKP.mT / (square_NK[:, None] + square_NK[..., None] + 2e-12)
    others = dice_NKK.sum() - dice_NKK.diagonal(dim1=1, dim2=2).sum()
    return others / max(n * k * (k - 1), 1)


def score_loss(score_NChw: Tensor, label_NHW: Tensor | None, ignore_index: int) -> Tensor:
    """Mean cross-entropy of class scores, 0 where all pixels are ignored.

    Args:
        score_NChw: Scores, brought to the labels' size.
        label_NHW: Class indices.
        ignore_index: Pixels with this label take no part.

    Raises:
        ValueError: There are no labels.
    """
    if label_NHW is None:
        raise ValueError('tokens learn with labels, got none.')
    # Pixels of images without a mask have labels below 0.
    label_NHW = label_NHW.masked_fill(label_NHW < 0, ignore_index)
    total, _ = cross_entropy_sums(score_NChw, label_NHW, ignore_index=ignore_index)
    return total / (label_NHW != ignore_index).sum().clamp(min=1)
