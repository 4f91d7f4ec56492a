from __future__ import annotations

import errno
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mmseg_kd.host.visualizer import add_picture, add_references


class Full:
    """A backend whose disk has a fault."""

    def __init__(self, number: int) -> None:
        self.number = number

    def fail(self, *_: Any) -> None:
        raise OSError(self.number, 'the disk')

    add_image = add_scalars = fail


def visualizer(number: int) -> Any:
    return SimpleNamespace(_vis_backends=dict(one=Full(number)))


def test_a_full_disk_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr('mmseg_kd.host.visualizer.print_log', lambda text, **_: said.append(text))
    add_references(visualizer(errno.ENOSPC), 'mIoU', dict(teacher=1.0), 0)
    add_picture(visualizer(errno.ENOSPC), 'validation', np.zeros((2, 2, 3), np.uint8), 0)
    assert said == [f'Not logged: [Errno {errno.ENOSPC}] the disk'] * 2
    with pytest.raises(OSError, match='the disk'):
        add_references(visualizer(errno.EIO), 'mIoU', dict(teacher=1.0), 0)
