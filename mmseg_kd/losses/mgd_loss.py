"""Masked generative distillation."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from mmseg_kd.checks import fraction, one_of
from mmseg_kd.losses.feature_map_loss import LearningFeatureMapLoss, Resolution
from mmseg_kd.losses.masked_generation import Generator, random_mask
from mmseg_kd.registry import KD_LOSSES

Masked = Literal['positions', 'channels']


@KD_LOSSES.register_module()
class MGDLoss(LearningFeatureMapLoss):
    r"""Squared error of the teacher's features generated from what a mask leaves of the student's.

    .. math:: L = \frac{1}{N} \sum_{n,c,i} \left( G(M \odot f^S)_{nci} - f^T_{nci} \right)^2

    with M drawn anew in each step, zero with probability `mask_ratio`, and G two 3x3 convolutions
    with a ReLU between, which train with the student. It is a sum over channels and positions, so
    that the weight is small and depends on the size of the map.

    Of C channels G has 18 C^2 weights and takes 18 C^2 hw multiplications an image, in float32: at
    2048 channels that is much of a training step.

    Taps: features; the paper takes the last stage of both backbones (weight 2e-5 for Cityscapes,
    512 channels to 2048 at 64x64), where the term's connector is its 1x1 alignment.

    Choose it for features of a much stronger teacher: the student need not copy them, but know
    enough around each position to make them.

    Args:
        channels: Of the maps after the connector, which are the teacher's. None: the term says it.
        mask_ratio: Share that is masked, 0 to 1.
        masked: 'positions', for all channels the same; or 'channels', as a whole.
        resolution: As in `FeatureMapLoss`.

    Raises:
        ValueError: An argument is out of its range.

    Reference: Yang et al., Masked Generative Distillation, ECCV 2022, arXiv 2205.01529, section 3;
    whole channels as in mmrazor's `MGDConnector`.
    """

    def __init__(
        self,
        channels: int | None = None,
        mask_ratio: float = 0.75,
        masked: Masked = 'positions',
        resolution: Resolution = 'student',
    ) -> None:
        super().__init__(resolution)
        self.mask_ratio = fraction('mask_ratio', mask_ratio)
        self.masked = one_of('masked', masked, get_args(Masked))
        self.use_channels(channels)

    def make(self, channels: int) -> None:
        self.generator = Generator(channels)

    def distance(
        self, student_NChw: Tensor, teacher_NChw: Tensor, label_NHW: Tensor | None
    ) -> Tensor:
        mask = random_mask(student_NChw, self.mask_ratio, self.masked == 'channels')
        generated_NChw = self.generator(student_NChw * mask)
        loss: Tensor = (generated_NChw - teacher_NChw).square().sum() / len(teacher_NChw)
        return loss
