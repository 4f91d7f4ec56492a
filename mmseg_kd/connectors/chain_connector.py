"""Connectors one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from mmseg_kd.registry import CONNECTORS, build


@CONNECTORS.register_module()
class ChainConnector(nn.Module):
    """Connectors one after the other; what is done to the teacher's side is done in order too.

    The first that changes channels brings the student's to the teacher's.

    Args:
        student_channels: Channels that come in.
        teacher_channels: Channels that go out.
        connectors: Their dicts: `[dict(type='ConvConnector'), dict(type='NormConnector')]`.

    Raises:
        ValueError: There is none, or one is wrong.
    """

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        connectors: Sequence[Mapping[str, Any]],
    ) -> None:
        super().__init__()
        if not isinstance(connectors, (list, tuple)) or not connectors:
            raise ValueError(f'connectors must be a list of dicts, got {connectors!r}.')
        self.connectors = nn.ModuleList()
        channels = student_channels
        for index, cfg in enumerate(connectors):
            sizes = dict(student_channels=channels, teacher_channels=teacher_channels)
            connector = build(CONNECTORS, cfg, f'connectors[{index}]', **sizes)
            self.connectors.append(connector)
            if not getattr(connector, 'keeps_channels', False):
                channels = teacher_channels

    def forward(self, student_NChw: Tensor) -> Tensor:
        """(N, student_channels, h, w) through each of them."""
        for connector in self.connectors:
            student_NChw = connector(student_NChw)
        return student_NChw

    def of_teacher(self, teacher_NChw: Tensor) -> Tensor:
        """The teacher's map through those that change it."""
        for connector in self.connectors:
            teacher_NChw = teacher_side(connector, teacher_NChw)
        return teacher_NChw


def teacher_side(connector: nn.Module | None, teacher_NChw: Tensor) -> Tensor:
    """The teacher's map as a connector wants it compared: through its `of_teacher`, if it has one.

    Args:
        connector: Any connector; None: there is none.
        teacher_NChw: The map.
    """
    change: Any = getattr(connector, 'of_teacher', None)
    return teacher_NChw if change is None else change(teacher_NChw)
