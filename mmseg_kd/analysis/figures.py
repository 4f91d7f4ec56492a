"""Figures of a lineup: what networks predict, where they err, and what their layers hold."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from mmseg_kd.analysis.activation import TappedNetwork
from mmseg_kd.analysis.activation_figure import ActivationFigure
from mmseg_kd.analysis.comparison import comparison_figure
from mmseg_kd.analysis.error_map import error_figure
from mmseg_kd.analysis.lineup import Lineup
from mmseg_kd.analysis.named_networks import term_layers
from mmseg_kd.analysis.scene import Scene, make_scenes
from mmseg_kd.errors import ConfigError, DatasetError, Problems
from mmseg_kd.networks.roles import Roles
from mmseg_kd.networks.taps import find_tap


def compare(lineup: Lineup, images: Sequence[int], cell_width: int = 320) -> Image.Image:
    """Image, ground truth and predictions side by side; the largest difference is outlined.

    Args:
        lineup: The networks and their data.
        images: Positions in the data set.
        cell_width: Width of a picture in the figure, in pixels.

    Raises:
        DatasetError: An image cannot be read, or its ground truth is of another size.
    """
    scenes, titles = _scenes(lineup, images), list(lineup.networks)
    meta = lineup.dataset.metainfo
    return comparison_figure(
        scenes, titles, meta['classes'], meta['palette'], lineup.between, cell_width
    )


def errors(lineup: Lineup, images: Sequence[int], cell_width: int = 320) -> Image.Image:
    """What each network gets wrong over the dimmed image, and which of two is right where.

    Args:
        lineup, images, cell_width: As in `compare`.

    Raises:
        DatasetError: As in `compare`, or there is no ground truth.
    """
    scenes, titles = _scenes(lineup, images), list(lineup.networks)
    if any(scene.label_HW is None for scene in scenes):
        raise DatasetError('errors needs ground truth, and the data set has none.')
    palette = lineup.dataset.metainfo['palette']
    return error_figure(scenes, titles, palette, lineup.between, cell_width)


def features(
    lineup: Lineup,
    images: Sequence[int],
    layers: Sequence[str] | None = None,
    query: tuple[float, float] = (0.5, 0.5),
    cell_width: int = 320,
) -> Image.Image:
    """What layers hold of an image, a column a network.

    These are the energy and the principal components of features, the best class and the entropy
    of class scores, and the attention of one point.

    Args:
        lineup, images, cell_width: As in `compare`.
        layers: Names as `mmseg-kd layers` prints them, or `STUDENT'S:TEACHER'S` where they differ;
            None: those of the first distillation with terms.
        query: The point whose attention is shown: column and row in the image, 0 to 1.

    Raises:
        ConfigError: There is no such layer, or it does not run; `ManyErrors` where that is more
            than one. Or `query` is outside the image.
        ShapeError: What a layer puts out cannot be shown.
        DatasetError: An image cannot be read.
    """
    if not all(0 <= part <= 1 for part in query):
        raise ConfigError(f'--query: expected two numbers from 0 to 1, got {list(query)}.')
    tapped = {
        one.title: TappedNetwork(lineup.networks[one.title], one.spec.scaling)
        for one in lineup.named
    }
    meta = lineup.dataset.metainfo
    drawing = ActivationFigure(
        tapped, layers_of(lineup, layers), meta['classes'], meta['palette'], query
    )
    items = [lineup.dataset[index] for index in images]
    return drawing.draw(items, lineup.names(images), cell_width)


def layers_of(lineup: Lineup, layers: Sequence[str] | None = None) -> list[dict[str, str]]:
    """For each group of rows in `features` the layer of each network, by title.

    Args:
        lineup, layers: As in `features`.

    Raises:
        ConfigError: A network has no such layer; `ManyErrors` where that is more than one.
    """
    if layers:
        parts = (layer.partition(':') for layer in layers)
        pairs = [(ours, theirs or ours) for ours, _, theirs in parts]
    else:
        pairs = term_layers(
            lineup.named, lineup.teacher if isinstance(lineup.teacher, str) else None
        )
    rows: list[dict[str, str]] = []
    for ours, theirs in pairs:
        row = dict.fromkeys(lineup.networks, ours)
        if lineup.teacher:
            row[lineup.named[-1].title] = theirs
        if row not in rows:
            rows.append(row)
    problems = Problems()
    for title, network in lineup.networks.items():
        roles = Roles(network)
        for row in rows:
            with problems:
                row[title] = roles.layer(row[title], title)
                find_tap(network, row[title], f'network {title!r}')
    problems.raise_if_any()
    return rows


def _scenes(lineup: Lineup, images: Sequence[int]) -> list[Scene]:
    return make_scenes(lineup.dataset, images, lineup.networks, lineup.names(images))
