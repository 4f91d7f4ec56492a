"""Layers of a network by what they are for: class scores, what these are made of, stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from mmseg_kd.errors import ConfigError, ShapeError, nearest
from mmseg_kd.networks.forward import as_network
from mmseg_kd.networks.layers import Pass, run_once
from mmseg_kd.networks.tokens import as_map


@dataclass(frozen=True)
class Level:
    """One of the maps that a backbone or a neck hands on, by the layer that puts it out."""

    layer: str
    channels: int
    stride: int


class Roles:
    """What the layers of a network are for, as far as one pass on a tiny image tells.

    Args:
        network: The network.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network: Any = network

    @cached_property
    def seen(self) -> Pass:
        """What the pass left."""
        return run_once(self.network)

    def shape(self, layer: str) -> tuple[int, ...]:
        """Of what a layer put out."""
        return tuple(self.seen.outputs[layer].shape)

    def stride(self, layer: str) -> int:
        """Of the map that a layer put out."""
        return self.seen.image_size[0] // self.shape(layer)[-2]

    def levels(self, part: str) -> list[Level]:
        """What 'backbone' or 'neck' hands on, as far as a layer of it can be tapped."""
        found = [self._level(part, one) for one in self.seen.handed_on.get(part, ())]
        return [level for level in found if level is not None]

    def _level(self, part: str, handed_on: Tensor) -> Level | None:
        """The outermost layer whose output this is: as a map, for a transformer's are tokens."""
        same = []
        for name, output in self.seen.outputs.items():
            with suppress(ShapeError):
                one = (
                    as_map(output, self.seen.image_size, name) if output.ndim in (3, 4) else output
                )
                if name.startswith(f'{part}.') and torch.equal(one, handed_on):
                    same.append(name)
        if not same:
            return None
        stride = self.seen.image_size[0] // handed_on.shape[-2]
        return Level(_outermost(same), handed_on.shape[1], stride)

    def scores(self) -> str | None:
        """The layer of the (last) decode head that gives a score for each class."""
        classes = as_network(self.network).num_classes
        found = [
            name
            for name, output in self.seen.outputs.items()
            if name.startswith('decode_head.') and output.ndim == 4 and output.shape[1] == classes
        ]
        named = [name for name in found if name.endswith('.conv_seg')]
        return [*found, *named][-1] if found else None

    def features(self) -> str | None:
        """The layer that puts out what the class scores are made of by one convolution."""
        scores = self.scores()
        classifier: Any = None if scores is None else self.network.get_submodule(scores)
        if not isinstance(classifier, nn.Conv2d):
            return None
        channels, wanted = classifier.in_channels, self.seen.outputs[str(scores)]
        found = []
        with torch.no_grad():
            for name, output in self.seen.outputs.items():
                if output.ndim != 4 or output.shape[1] != channels:
                    continue
                # What a dropout puts out is, in training, not what came in.
                is_dropout = 'Dropout' in type(self.network.get_submodule(name)).__name__
                if not is_dropout and torch.equal(classifier(output), wanted):
                    found.append(name)
        return _outermost(found) if found else None

    def stage(self) -> str | None:
        """The layer that puts out the last map that the backbone hands on."""
        levels = self.levels('backbone')
        return levels[-1].layer if levels else None

    def layer(self, name: str, side: str) -> str:
        """A layer's name: that of a role, or the one that is given.

        Args:
            name: One of `ROLES`, or a layer.
            side: What messages call the network.

        Raises:
            ConfigError: There is no such role, or none of the layers has it.
        """
        if not name.startswith('@'):
            return name
        if name not in ROLES:
            raise ConfigError(f'there is no role {name!r}; {nearest(name, list(ROLES))}.')
        what, find = ROLES[name]
        found = find(self)
        if found is None:
            raise ConfigError(
                f'{name!r}: no layer of the {side} puts out {what}; give a layer by its name '
                '(mmseg-kd layers CONFIG prints them all).'
            )
        return found


# By the names that configs have for them: what such a layer puts out, and how it is found.
ROLES: Mapping[str, tuple[str, Callable[[Roles], str | None]]] = {
    '@scores': ('a map of scores for each class', Roles.scores),
    '@features': ('what a convolution makes class scores of', Roles.features),
    '@stage': ('what the backbone hands on last', Roles.stage),
}


def _outermost(names: Sequence[str]) -> str:
    return min(names, key=lambda name: name.count('.'))
