"""What visualisation backends take in different ways.

Scalars go to all of them alike, through `runner.visualizer.add_scalars`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from mmengine.visualization import MLflowVisBackend, TensorboardVisBackend, Visualizer
from numpy.typing import NDArray


def add_references(
    visualizer: Visualizer, metric: str, lines: Mapping[str, float], step: int
) -> None:
    """Put a point of some constant lines into the chart of a metric.

    TensorBoard draws one tag in one chart, a line for each run: there the lines are runs of their
    own, `<metric>_<name>`, with the tag `<metric>`. Other backends have entries `<metric>_<name>`:
    with a slash MLflow would take the metric for a folder.
    """
    for backend in _backends(visualizer):
        if isinstance(backend, TensorboardVisBackend):
            backend.experiment.add_scalars(metric, dict(lines), step)
        else:
            entries = {f'{metric}_{name}': value for name, value in lines.items()}
            backend.add_scalars(entries, step)


def add_picture(visualizer: Visualizer, name: str, picture: NDArray[np.uint8], step: int) -> None:
    """Put a picture (H, W, 3), RGB, where the backends show it over the steps."""
    for backend in _backends(visualizer):
        if isinstance(backend, MLflowVisBackend):
            # Keeps files, one a name; the name says which format.
            backend.add_image(f'{name}_{step}.png', picture, step)
        else:
            backend.add_image(name, picture, step)


def _backends(visualizer: Visualizer) -> list[Any]:
    return list(visualizer._vis_backends.values())
