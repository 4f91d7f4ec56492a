"""Distillation in the frequency domain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_kd.checks import at_least_one, at_least_zero, one_of, whole_number
from mmseg_kd.losses.feature_map_loss import LearningFeatureMapLoss, Resolution
from mmseg_kd.losses.receptive_tokens import ReceptiveTokens, overlap, score_loss, token_masks
from mmseg_kd.registry import KD_LOSSES

Grouping = Literal['orientation', 'level']

# Of the four values of a square, row by row, to the low band and the details of rows, of columns
# and of diagonals. It is its own inverse.
HAAR = (
    (0.5, 0.5, 0.5, 0.5),
    (0.5, 0.5, -0.5, -0.5),
    (0.5, -0.5, 0.5, -0.5),
    (0.5, -0.5, -0.5, 0.5),
)


@KD_LOSSES.register_module()
class FreqLoss(LearningFeatureMapLoss):
    r"""Absolute difference of the details of a Haar transform, where masks say that they count.

    .. math:: L = \sum_l \frac{1}{3NKC|\Omega_l|} \sum_{n,k,c,o,i}
        m_{nkoi}^l \left| d^{S,l}_{ncoi} - d^{T,l}_{ncoi} \right|

    with the details d of orientation o (rows, columns, diagonals) and level l, each level half as
    fine as the one before. The masks m are the sigmoid of the products of K tokens with the
    teacher's details, one set of tokens an orientation, and learn as in `MasKDLoss`: the
    cross-entropy of the scores that the masked bands, the low one too, are turned back to, plus
    the overlap of the masks. Without tokens, the default, m is 1.

    The low band takes no part: what is the same over large areas is not seen.

    Taps: features whose edges and textures are to be kept, beside a loss of their level such as
    `FeatureLoss`; with tokens class scores of the same classes, which tokens can learn by.

    Choose it where students lose thin things and borders.

    Args:
        channels: Of the maps; of use for tokens alone. None: the term says it.
        levels: Of the transform, >= 1; rows and columns that are left over are paired with zeros.
        num_tokens: K, >= 0.
        tokens_of: 'orientation', as in the paper; or 'level', as in the authors' code, which takes
            the library's list of levels for one of orientations: a set of tokens a level, and
            masks for all orientations from their sum.
        token_iterations, ignore_index: As in `MasKDLoss`.
        resolution: As in `FeatureMapLoss`.

    Raises:
        ValueError: An argument is out of its range.

    Reference: Zhang et al., FreeKD: Knowledge Distillation via Semantic Frequency Prompt, CVPR
    2024, arXiv 2311.12079. As in the authors' code the details alone are compared, and the masks
    have no weights, which that code makes and does not use. There the tokens learn in a training of
    their own by the loss of a detector.
    """

    def __init__(
        self,
        channels: int | None = None,
        levels: int = 3,
        num_tokens: int = 0,
        tokens_of: Grouping = 'orientation',
        token_iterations: int = 10000,
        ignore_index: int = 255,
        resolution: Resolution = 'student',
    ) -> None:
        super().__init__(resolution)
        self.levels = at_least_one('levels', levels)
        self.num_tokens = at_least_zero('num_tokens', num_tokens)
        self.learns = num_tokens > 0
        self.tokens_of = one_of('tokens_of', tokens_of, get_args(Grouping))
        self.token_iterations = at_least_zero('token_iterations', token_iterations)
        self.ignore_index = whole_number('ignore_index', ignore_index)
        self.use_channels(channels)

    def make(self, channels: int) -> None:
        sets = 1 + (3 if self.tokens_of == 'orientation' else self.levels)
        shape = (sets, self.num_tokens, channels)
        self.receptive = ReceptiveTokens(shape, self.token_iterations)

    def distance(
        self, student_NChw: Tensor, teacher_NChw: Tensor, label_NHW: Tensor | None
    ) -> Tensor:
        _, ours = haar(student_NChw, self.levels)
        low_NChw, theirs = haar(teacher_NChw, self.levels)
        masks: Sequence[Tensor | float] = [1.0] * self.levels
        if self.learns:

            def value_of(tokens: Tensor) -> Tensor:
                return self._token_loss(tokens, low_NChw, theirs, teacher_NChw, label_NHW)

            masks = [
                m.mean(1, keepdim=True)
                for m in self._masks(self.receptive.updated(value_of), theirs)
            ]
        levels = zip(masks, ours, theirs, strict=True)
        return torch.stack([(mask * (s - t).abs()).mean() for mask, s, t in levels]).sum()

    def _masks(self, tokens: Tensor, details: Sequence[Tensor]) -> list[Tensor]:
        """Masks (N, K, 3 or 1, h, w) of each level; the first set of tokens is the low band's."""
        if self.tokens_of == 'level':
            pairs = zip(tokens[1:], details, strict=True)
            return [token_masks(one, x_NCOhw.sum(2))[:, :, None] for one, x_NCOhw in pairs]
        return [
            torch.stack(
                [token_masks(one, x) for one, x in zip(tokens[1:], x_NCOhw.unbind(2), strict=True)],
                dim=2,
            )
            for x_NCOhw in details
        ]

    def _token_loss(
        self,
        tokens: Tensor,
        low_NChw: Tensor,
        details: Sequence[Tensor],
        teacher_NChw: Tensor,
        label_NHW: Tensor | None,
    ) -> Tensor:
        """What the tokens learn by."""
        low_mask_NKhw = token_masks(tokens[0], low_NChw)
        masks = self._masks(tokens, details)
        x_NChw = inverse_haar(
            low_NChw * low_mask_NKhw.sum(1, keepdim=True),
            [x * mask.sum(1, keepdim=True) for x, mask in zip(details, masks, strict=True)],
        )
        h, w = teacher_NChw.shape[-2:]
        loss = score_loss(x_NChw[..., :h, :w], label_NHW, self.ignore_index)
        sets = [low_mask_NKhw.flatten(2)]
        if self.tokens_of == 'level':
            sets += [mask.flatten(2) for mask in masks]
        else:
            # All levels of an orientation together.
            sets += torch.cat([mask.flatten(3) for mask in masks], dim=3).unbind(2)
        return loss + torch.stack([overlap(mask) for mask in sets]).sum()


def haar(x_NChw: Tensor, levels: int) -> tuple[Tensor, list[Tensor]]:
    """The low band (N, C, h, w) after all levels, and each level's details (N, C, 3, h, w)."""
    details = []
    for _ in range(levels):
        h, w = x_NChw.shape[-2:]
        squares = F.pixel_unshuffle(F.pad(x_NChw, (0, w % 2, 0, h % 2)), 2)
        bands = torch.einsum(
            'bp,ncphw->ncbhw', x_NChw.new_tensor(HAAR), squares.unflatten(1, (-1, 4))
        )
        x_NChw = bands[:, :, 0]
        details.append(bands[:, :, 1:])
    return x_NChw, details


def inverse_haar(low_NChw: Tensor, details: Sequence[Tensor]) -> Tensor:
    """The map of its bands, with the zeros that `haar` pads rows and columns by."""
    x_NChw = low_NChw
    for x_NCOhw in reversed(details):
        h, w = x_NCOhw.shape[-2:]
        bands = torch.cat([x_NChw[..., None, :h, :w], x_NCOhw], dim=2)
        squares = torch.einsum('bp,ncphw->ncbhw', x_NChw.new_tensor(HAAR), bands)
        x_NChw = F.pixel_shuffle(squares.flatten(1, 2), 2)
    return x_NChw
