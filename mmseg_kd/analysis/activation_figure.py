"""The figure of layers: what the tapped layers of several networks hold of an image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from mmseg_kd.analysis.activation import (
    COLOURS,
    TappedNetwork,
    as_rgb,
    attention_of,
    energy,
    entropy,
    heat,
    is_attention,
    principal_components,
    tap,
    turned,
)
from mmseg_kd.analysis.comparison import class_legend, colour_label
from mmseg_kd.analysis.differences import Label
from mmseg_kd.analysis.grid import Bar, Cell, draw_grid
from mmseg_kd.evaluation.labels import image_of, label_of
from mmseg_kd.networks.mmseg_network import is_classifier
from mmseg_kd.networks.taps import Taps

BAR = Bar(COLOURS, '0', '1: highest value of the map (entropy: all classes alike)')

# A row of the figure: the picture on the left, and one of each network by its title.
Row = tuple[Cell, dict[str, Cell]]


@dataclass
class ActivationFigure:
    """Layers of networks side by side, a column each.

    Args:
        networks: By title; to the last one the principal components of the others are turned.
        layers: For each group of rows the layer of each network, by title.
        classes, palette: Of the data set.
        point: The query whose attention is shown: column and row in the image, 0 to 1.
    """

    networks: Mapping[str, TappedNetwork]
    layers: Sequence[Mapping[str, str]]
    classes: Sequence[str]
    palette: Sequence[Sequence[int]]
    point: tuple[float, float] = (0.5, 0.5)
    _labels: list[Label] = field(default_factory=list)

    def draw(
        self, items: Sequence[Any], names: Sequence[str], cell_width: int = 256
    ) -> Image.Image:
        """The figure for some images.

        Args:
            items: Of a data set.
            names: What the images are called.
            cell_width: Width of a picture in the figure, in pixels.

        Raises:
            ConfigError: A layer does not run.
            ShapeError: What a layer puts out cannot be shown.
        """
        self._labels.clear()
        columns: dict[str, list[Cell]] = {'image': [], **{title: [] for title in self.networks}}
        for name, item in zip(names, items, strict=True):
            for first, others in self._rows(name, item):
                columns['image'].append(first)
                for title, cell in others.items():
                    columns[title].append(cell)
        legend = class_legend(self._labels, self.classes, self.palette)
        return draw_grid(columns, legend, cell_width, BAR)

    def _rows(self, name: str, item: Any) -> Iterator[Row]:
        """All rows of one image."""
        taps = {
            title: tap(network, item, list(dict.fromkeys(pair[title] for pair in self.layers)))
            for title, network in self.networks.items()
        }
        image = Cell(image_of(item), name, crisp=False)
        for pair in self.layers:
            if all(is_attention(self.networks[title].network, one) for title, one in pair.items()):
                yield self._attention(image, pair, taps)
                continue
            maps = {title: taps[title].map(layer)[0] for title, layer in pair.items()}
            if all(map(self._are_scores, pair.values(), maps.values())):
                yield from self._scores(image, label_of(item), pair, maps)
            else:
                yield from _features(image, pair, maps)

    def _are_scores(self, layer: str, map_Chw: Tensor) -> bool:
        return is_classifier(layer) and len(map_Chw) == len(self.classes)

    def _attention(self, image: Cell, pair: Mapping[str, str], taps: Mapping[str, Taps]) -> Row:
        cells = {}
        for title, layer in pair.items():
            weights_LS = taps[title].outputs[layer][0]
            values = attention_of(weights_LS, taps[title].image_size, self.point, layer)
            caption = _caption(layer, 'attention from the cross', weights_LS)
            cells[title] = Cell(heat(values), caption, point=self.point)
        return replace(image, point=self.point), cells

    def _scores(
        self,
        image: Cell,
        label: Label | None,
        pair: Mapping[str, str],
        maps: Mapping[str, Tensor],
    ) -> Iterator[Row]:
        best = {title: one.argmax(0).numpy().astype(np.uint8) for title, one in maps.items()}
        self._labels += best.values()
        first = image
        if label is not None:
            self._labels.append(label)
            first = Cell(colour_label(label, self.palette), 'ground truth')
        coloured = {title: colour_label(one, self.palette) for title, one in best.items()}
        yield first, _cells(coloured, 'best class', pair, maps)
        doubt = {title: heat(entropy(scores)) for title, scores in maps.items()}
        yield image, _cells(doubt, 'entropy', pair, maps)


def _features(image: Cell, pair: Mapping[str, str], maps: Mapping[str, Tensor]) -> Iterator[Row]:
    energies = {title: heat(energy(features)) for title, features in maps.items()}
    yield image, _cells(energies, 'energy', pair, maps)
    components = {title: principal_components(features) for title, features in maps.items()}
    reference = components[list(pair)[-1]]
    colours = {title: as_rgb(turned(one, reference)) for title, one in components.items()}
    yield image, _cells(colours, 'principal components', pair, maps)


def _cells(
    pictures: Mapping[str, Any], what: str, pair: Mapping[str, str], maps: Mapping[str, Tensor]
) -> dict[str, Cell]:
    return {
        title: Cell(picture, _caption(pair[title], what, maps[title]))
        for title, picture in pictures.items()
    }


def _caption(layer: str, what: str, output: Tensor) -> str:
    return f'{layer}\n{what}, {"x".join(map(str, output.shape))}'
