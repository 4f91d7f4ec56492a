"""Masked distillation with receptive tokens."""

from __future__ import annotations

from torch import Tensor

from mmseg_kd.checks import at_least_one, at_least_zero, whole_number
from mmseg_kd.losses.feature_map_loss import LearningFeatureMapLoss, Resolution
from mmseg_kd.losses.receptive_tokens import ReceptiveTokens, overlap, score_loss, token_masks
from mmseg_kd.registry import KD_LOSSES


@KD_LOSSES.register_module()
class MasKDLoss(LearningFeatureMapLoss):
    r"""Squared difference inside masks that tokens learnt on the teacher draw.

    .. math:: L = \frac{1}{2NKC} \sum_{n,k,c}
        \frac{\sum_i m_{nki}^2 \left( z^S_{nci} - z^T_{nci} \right)^2}{\sum_i m_{nki}},
        \quad m_{nki} = \sigma\left( \sum_c t_{kc} z^T_{nci} \right)

    with the K tokens t. In the first `token_iterations` of a training these learn, while the
    student already learns through them as they are; from then on they are fixed. They are to keep
    what the teacher tells the classes apart by, and to be unlike each other: the cross-entropy of
    the scores times the sum of the masks, plus the mean Dice coefficient of two masks, is made
    small by a gradient descent of its own (learning rate 0.1, weight decay 1e-3, the gradient's
    mean over the ranks), whatever optimiser trains the student. An iteration in which the term's
    weight is 0 passes without a step.

    Taps: class scores of the same classes, and for the auxiliary heads a second term with the
    weight 0.4; features have no cross-entropy that tokens could learn by.

    Choose it where what counts is in small regions that a mean over all positions drowns.

    Args:
        channels: Of the maps. None: the term says it.
        num_tokens: K, >= 1.
        token_iterations: >= 0; with 0 the tokens stay as they are, such as loaded ones.
        ignore_index: Pixels with this label are nothing for the tokens to learn by.
        resolution: As in `FeatureMapLoss`.

    Raises:
        ValueError: An argument is out of its range.

    Reference: Huang et al., Masked Distillation with Receptive Tokens, ICLR 2023, arXiv
    2205.14589, with the squared masks of the authors' code. There the tokens learn in a training
    of their own of 10000 iterations, with the teacher's batch norms in training mode, before one
    of 40000 for the student.
    """

    def __init__(
        self,
        channels: int | None = None,
        num_tokens: int = 8,
        token_iterations: int = 10000,
        ignore_index: int = 255,
        resolution: Resolution = 'student',
    ) -> None:
        super().__init__(resolution)
        self.num_tokens = at_least_one('num_tokens', num_tokens)
        self.token_iterations = at_least_zero('token_iterations', token_iterations)
        self.ignore_index = whole_number('ignore_index', ignore_index)
        self.use_channels(channels)

    def make(self, channels: int) -> None:
        self.receptive = ReceptiveTokens((self.num_tokens, channels), self.token_iterations)

    def distance(
        self, student_NChw: Tensor, teacher_NChw: Tensor, label_NHW: Tensor | None
    ) -> Tensor:
        def value_of(tokens_KC: Tensor) -> Tensor:
            mask_NKhw = token_masks(tokens_KC, teacher_NChw)
            masked_NChw = teacher_NChw * mask_NKhw.sum(1, keepdim=True)
            task = score_loss(masked_NChw, label_NHW, self.ignore_index)
            return task + overlap(mask_NKhw.flatten(2))

        mask_NKhw = token_masks(self.receptive.updated(value_of), teacher_NChw)
        square_N1hw = (student_NChw - teacher_NChw).square().mean(1, keepdim=True)
        sum_NK = (mask_NKhw.square() * square_N1hw).sum((2, 3))
        return (sum_NK / (mask_NKhw.sum((2, 3)) + 1e-5)).mean() / 2
