"""Self-attention distillation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmseg_kd.checks import at_least_one, non_negative
from mmseg_kd.losses.base_loss import BaseLoss
from mmseg_kd.losses.functional import at_least_float32, softmax_divergence
from mmseg_kd.registry import KD_LOSSES


@KD_LOSSES.register_module()
class AttentionValueLoss(BaseLoss):
    r"""KL divergences between the attention of two transformer blocks, and their value relations.

    .. math:: L = \alpha \, \overline{\mathrm{KL}(A^T \| A^S)}
        + \beta \, \overline{\mathrm{KL}(R^T \| R^S)},
        \quad R = \mathrm{softmax}\left( V V^\top / \sqrt{d} \right)

    with A the attention weights, V the values, d their channels in a head, and the means over
    images, heads and positions. A relation compares the positions with each other, so that
    student and teacher may have different numbers of channels.

    Args:
        attention_weight: Of the first part, >= 0.
        value_weight: Of the second, >= 0.
        relation_heads: Heads that the channels of the values are divided into, on both sides.

    Raises:
        ValueError: An argument is out of its range.

    Taps: two layers a side, attention weights and values: of an nn.MultiheadAttention, which
    mmseg's MiT is made of, these are `<layer>.weights` and `<layer>.value`. Positions must be as
    many on both sides; channels and heads may differ.

    Choose it between two transformers, beside a term on the class scores: it sees where a block
    looks, and which positions it holds alike.

    Reference: Wang et al., MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression
    of Pre-Trained Transformers, NeurIPS 2020, arXiv 2002.10957, eq. 5 to 8, with the attention
    averaged over the heads, whose numbers may differ; relation heads as in MiniLMv2, arXiv
    2012.15828.
    """

    # How many layers a term names on each side.
    layers_per_side = 2

    def __init__(
        self,
        attention_weight: float = 1.0,
        value_weight: float = 1.0,
        relation_heads: int = 1,
    ) -> None:
        super().__init__()
        self.attention_weight = non_negative('attention_weight', attention_weight)
        self.value_weight = non_negative('value_weight', value_weight)
        self.relation_heads = at_least_one('relation_heads', relation_heads)

    def forward(
        self,
        student: Sequence[Tensor],
        teacher: Sequence[Tensor],
        label_NHW: Tensor | None = None,
    ) -> Tensor:
        """The loss, a scalar of at least float32; the gradient goes to the student alone.

        Shape:
            - student, teacher: attention weights (N, L, S), or (N, heads, L, S), and values
              (N, S, C), where N, L and S are the same on both sides.
            - label_NHW: not used.

        Raises:
            ValueError: Shapes do not match.
        """
        attention_student, value_student = map(at_least_float32, student)
        attention_teacher, value_teacher = (at_least_float32(x.detach()) for x in teacher)
        attention_student = _mean_head(attention_student)
        attention_teacher = _mean_head(attention_teacher)
        for name, ours, theirs in (
            ('attention weights', attention_student.shape, attention_teacher.shape),
            ('value positions', value_student.shape[:2], value_teacher.shape[:2]),
        ):
            if ours != theirs:
                raise ValueError(
                    f'{name} must have the same shape in student and teacher, got '
                    f'{tuple(ours)} and {tuple(theirs)}.'
                )
        with torch.autocast(attention_student.device.type, enabled=False):
            # softmax(log p) is p: the divergence of the probabilities as they are.
            # The floor keeps the gradient finite, under a loss scale too.
            tiny = 1e-12
            attention_NL = softmax_divergence(
                attention_student.clamp(min=tiny).log(),
                attention_teacher.clamp(min=tiny).log(),
                tau=1.0,
                dim=-1,
            )
            value_NHS = softmax_divergence(
                self._relation(value_student), self._relation(value_teacher), tau=1.0, dim=-1
            )
            attention = self.attention_weight * attention_NL.mean()
            return attention + self.value_weight * value_NHS.mean()

    def _relation(self, value_NSC: Tensor) -> Tensor:
        """Logits (N, heads, S, S) of how positions go together."""
        n, s, c = value_NSC.shape
        if c % self.relation_heads:
            raise ValueError(f'relation_heads={self.relation_heads} does not divide {c} channels.')
        value_NHSD = value_NSC.reshape(n, s, self.relation_heads, -1).transpose(1, 2)
        scale: float = (c // self.relation_heads) ** -0.5
        return value_NHSD @ value_NHSD.mT * scale


def _mean_head(attention: Tensor) -> Tensor:
    """(N, heads, L, S) or (N, L, S) to (N, L, S)."""
    return attention.mean(1) if attention.ndim == 4 else attention
