"""Work dirs with logs as a training leaves them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def train_line(iteration: int, loss: float, **more: Any) -> str:
    """A line of training."""
    values = {'lr': 0.1, 'loss': loss, 'time': 0.5, **more}
    return json.dumps({**values, 'iter': iteration, 'step': iteration})


def val_line(iteration: int, miou: float) -> str:
    """A line of validation."""
    return json.dumps({'aAcc': 90.0, 'mIoU': miou, 'time': 0.1, 'step': iteration})


def write_start(
    work_dir: Path, start: str, lines: Iterable[str], config: str | None = None, end: str = '\n'
) -> Path:
    """The log of one start of a run, and its config; returns its scalars.json.

    Args:
        end: What follows the last line.
    """
    folder = work_dir / start / 'vis_data'
    folder.mkdir(parents=True)
    file = folder / 'scalars.json'
    file.write_text('\n'.join(lines) + end, encoding='utf-8')
    if config is not None:
        (folder / 'config.py').write_text(config, encoding='utf-8')
    return file


def write_run(work_dir: Path, mious: Iterable[float], config: str | None = None) -> Path:
    """A run of one start with a validation every 100 iterations; returns the work dir."""
    lines = []
    for index, miou in enumerate(mious, 1):
        lines += [train_line(100 * index, 10 / index), val_line(100 * index, miou)]
    write_start(work_dir, '20260101_000000', lines, config)
    return work_dir
