"""What layers hold of an image, as pictures: features, class scores and attention.

Features (N, C, h, w), or tokens (N, L, C) as such a map, show as their energy, the root mean square
over the channels, and as their three principal components in red, green and blue. Class scores show
as the best class and as the entropy of their softmax, attention weights as those of one query.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mmseg_kd.analysis.grid import Picture
from mmseg_kd.config.input_scaling import InputScaling
from mmseg_kd.errors import ConfigError, ShapeError
from mmseg_kd.networks.forward import run_to_layers
from mmseg_kd.networks.probe import evaluating
from mmseg_kd.networks.taps import Taps
from mmseg_kd.networks.tokens import grid_of

Values = NDArray[np.float64]

# Even steps of brightness, which read in grey and for the colour-blind too.
COLOURS: Picture = matplotlib.colormaps['viridis'](np.arange(256), bytes=True)[:, :3]


@dataclass(frozen=True)
class TappedNetwork:
    """A network and how it is fed.

    Attributes:
        network: A segmentor of mmseg's.
        scaling: What its images are scaled to.
    """

    network: Any
    scaling: InputScaling = field(default_factory=InputScaling)


def tap(tapped: TappedNetwork, item: Any, layers: Collection[str]) -> Taps:
    """What layers put out for one item of a data set.

    Raises:
        ConfigError: A layer does not run.
        ShapeError: A layer puts out something else than one tensor.
    """
    network = tapped.network
    batch = dict(inputs=[item['inputs']], data_samples=[item['data_samples']])
    with evaluating(network):
        images_NCHW = tapped.scaling(network.data_preprocessor(batch, False)['inputs'])
        # Copies: a layer after it may change an output in place.
        outputs = run_to_layers(network, images_NCHW, layers, modified_in_place=layers)
    idle = [layer for layer in layers if layer not in outputs]
    if idle:
        raise ConfigError(
            f'{", ".join(idle)}: does not run when the network predicts; tap another layer.'
        )
    height, width = images_NCHW.shape[-2:]
    return Taps({k: v.float().cpu() for k, v in outputs.items()}, (height, width))


def is_attention(network: nn.Module, layer: str) -> bool:
    """Whether a layer's name stands for attention weights."""
    owner, _, part = layer.rpartition('.')
    names = dict(network.named_modules())
    return part == 'weights' and isinstance(names.get(owner), nn.MultiheadAttention)


def heat(values_hw: Values) -> Picture:
    """Values from 0 to 1 in `COLOURS`."""
    picture: Picture = COLOURS[(values_hw.clip(0, 1) * (len(COLOURS) - 1)).round().astype(int)]
    return picture


def energy(features_Chw: Tensor) -> Values:
    """The root mean square over the channels, as a share of the highest."""
    return _to_highest(features_Chw.double().square().mean(0).sqrt().numpy())


def _to_highest(values: Values) -> Values:
    """Values >= 0 as shares of the highest."""
    return values / max(float(values.max()), np.finfo(float).tiny)


def entropy(scores_Chw: Tensor) -> Values:
    """The entropy of the softmax over the classes, 1 where all are alike."""
    log_p = scores_Chw.double().log_softmax(0)
    values: Values = -(log_p.exp() * log_p).sum(0).numpy() / np.log(len(scores_Chw))
    return values


def principal_components(features_Chw: Tensor) -> Values:
    """The first three principal components (3, h, w), the first with variance 1.

    Fewer channels give components of zeros. The sign of each is such that its largest value is
    positive.
    """
    channels, height, width = features_Chw.shape
    x: Values = features_Chw.double().flatten(1).numpy()
    x = x - x.mean(1, keepdims=True)
    _, vectors = np.linalg.eigh(x @ x.T)
    found = np.zeros((3, height * width))
    found[: min(3, channels)] = (vectors.T[::-1] @ x)[:3]
    largest = np.abs(found).argmax(1)
    found *= np.where(found[range(3), largest] < 0, -1.0, 1.0)[:, None]
    found /= max(float(found[0].std()), np.finfo(float).tiny)
    return found.reshape(3, height, width)


def turned(components_3hw: Values, reference_3hw: Values) -> Values:
    """Components, turned as a whole (orthogonal Procrustes) to agree with others where they can.

    What two networks call their first component is arbitrary; after this, equal colours stand for
    equal patterns, and nothing of a network's own pattern is lost.
    """
    size = reference_3hw.shape[1:]
    resized = F.interpolate(
        torch.from_numpy(components_3hw)[None], size, mode='bilinear', align_corners=False
    )[0].numpy()
    left, _, right = np.linalg.svd(reference_3hw.reshape(3, -1) @ resized.reshape(3, -1).T)
    rotated: Values = np.tensordot(left @ right, components_3hw, axes=1)
    return rotated


def as_rgb(components_3hw: Values) -> Picture:
    """Components as colours; grey is their mean, and one in a hundred values is cut off."""
    reach = max(float(np.percentile(np.abs(components_3hw), 99)), np.finfo(float).tiny)
    rgb: Values = 255 * (0.5 + 0.5 * components_3hw / reach).clip(0, 1)
    picture: Picture = rgb.round().astype(np.uint8).transpose(1, 2, 0)
    return picture


def attention_of(
    weights_LS: Tensor, image_size: tuple[int, int], point: tuple[float, float], layer: str
) -> Values:
    """The attention of the query at a point, as a share of the highest.

    Args:
        weights_LS: One row a query.
        image_size: Height and width of the image that went in.
        point: Column and row in the image, 0 to 1.
        layer: The layer's name, for messages.

    Raises:
        ShapeError: Queries or keys are no grid over the image.
    """
    queries, keys = (grid_of(length, image_size) for length in weights_LS.shape)
    if queries is None or keys is None:
        raise ShapeError(
            f'layer {layer!r} puts out weights {tuple(weights_LS.shape)}; expected a grid of '
            f'queries and one of keys over an image of {image_size[0]}x{image_size[1]}.'
        )
    column, row = (
        min(int(part * count), count - 1)
        for part, count in zip(point, reversed(queries), strict=True)
    )
    return _to_highest(weights_LS[row * queries[1] + column].double().reshape(keys).numpy())
