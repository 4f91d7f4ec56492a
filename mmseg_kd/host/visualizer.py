"""What visualisation backends take in different ways.

Scalars go to all of them alike, through `runner.visualizer.add_scalars`.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from mmengine.logging import print_log
from mmengine.visualization import (
    LocalVisBackend,
    MLflowVisBackend,
    TensorboardVisBackend,
    Visualizer,
)
from numpy.typing import NDArray

# A full disk, a quota, a limit on the size of files.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def ignore_full_disk() -> Iterator[None]:
    """Let a run go on when there is no room for its curves: the checkpoint hook has the say."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        print_log(f'Not logged: {error}', logger='current', level=logging.ERROR)


def add_references(
    visualizer: Visualizer, metric: str, lines: Mapping[str, float], step: int
) -> None:
    """Put a point of some constant lines into the chart of a metric.

    TensorBoard draws one tag in one chart, a line for each run: there the lines are runs of their
    own, `<metric>_<name>`, with the tag `<metric>`. Other backends have entries `<metric>_<name>`:
    with a slash MLflow would take the metric for a folder. The run's own `scalars.json` has none.
    """
    entries = {f'{metric}_{name}': value for name, value in lines.items()}
    for backend in _backends(visualizer):
        if isinstance(backend, LocalVisBackend):
            continue  # what stands in its file has been measured
        with ignore_full_disk():
            if isinstance(backend, TensorboardVisBackend):
                backend.experiment.add_scalars(metric, dict(lines), step)
            else:
                backend.add_scalars(entries, step)


def add_picture(visualizer: Visualizer, name: str, picture: NDArray[np.uint8], step: int) -> None:
    """Put a picture (H, W, 3), RGB, where the backends show it over the steps."""
    for backend in _backends(visualizer):
        # MLflow keeps files, one a name, and the name says which format.
        is_file = isinstance(backend, MLflowVisBackend)
        with ignore_full_disk():
            backend.add_image(f'{name}_{step}.png' if is_file else name, picture, step)


def _backends(visualizer: Visualizer) -> list[Any]:
    return list(visualizer._vis_backends.values())
