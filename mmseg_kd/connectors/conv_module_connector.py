"""From the student's channels to the teacher's, normalised and through an activation."""

from __future__ import annotations

from typing import Literal, get_args

from torch import nn

from mmseg_kd.connectors.conv_connector import ConvConnector
from mmseg_kd.errors import nearest, short_repr
from mmseg_kd.registry import CONNECTORS

Norm = Literal['BN', 'GN', 'IN']
Activation = Literal['ReLU', 'GELU', 'SiLU']


@CONNECTORS.register_module()
class ConvModuleConnector(nn.Sequential):
    """A convolution, a normalisation and an activation, trained with the student.

    Reference: the transform with BatchNorm of Heo et al., A Comprehensive Overhaul of Feature
    Distillation, ICCV 2019, arXiv 1904.01866.

    Args:
        student_channels: Channels that come in.
        teacher_channels: Channels that go out.
        kernel_size: An odd number; 1 looks at each position alone.
        norm: BatchNorm ('BN'), GroupNorm in as many as 32 groups ('GN'), or InstanceNorm ('IN'),
            each with weights that are learnt. None: none.
        activation: What comes last. None: nothing, for features that may be negative.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        kernel_size: int = 1,
        norm: Norm | None = 'BN',
        activation: Activation | None = None,
    ) -> None:
        super().__init__()
        _check('norm', norm, get_args(Norm))
        _check('activation', activation, get_args(Activation))
        self.conv = ConvConnector(student_channels, teacher_channels, kernel_size).conv
        if norm is not None:
            self.norm = _norm(norm, teacher_channels)
        if activation is not None:
            self.activation = getattr(nn, activation)()


def _check(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value is not None and value not in choices:
        raise ValueError(
            f'{name} must be None or one of {choices}, got {short_repr(value)}; '
            f'{nearest(value, choices)}.'
        )


def _norm(norm: Norm, channels: int) -> nn.Module:
    if norm == 'BN':
        return nn.BatchNorm2d(channels)
    if norm == 'IN':
        return nn.InstanceNorm2d(channels, affine=True)
    groups = max(n for n in range(1, min(32, channels) + 1) if channels % n == 0)
    return nn.GroupNorm(groups, channels)
