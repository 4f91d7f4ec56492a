"""The layers of a config's networks that can be tapped, as tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatch

from mmengine.config import Config

from mmseg_kd.config.network_spec import networks_of
from mmseg_kd.networks.build import build_network, without_initialisation
from mmseg_kd.networks.layers import Layer, list_layers


def layers_by_side(cfg: Config) -> dict[str, list[Layer]]:
    """The layers of the teachers and the student of a distillation, or of the one model.

    Raises:
        ConfigError: A network cannot be built.
    """
    # Shapes need no weights.
    return {
        side: list_layers(build_network(without_initialisation(spec.model), side))
        for side, spec in networks_of(cfg).items()
    }


def layer_table(side: str, layers: Sequence[Layer], other: Sequence[Layer], glob: str) -> str:
    """A table of the layers whose names match; `=` marks a shape that the other side has too.

    Args:
        side: What the network is called.
        layers: Its layers.
        other: Those of the networks that it is compared with.
        glob: What names must match.
    """
    chosen = [layer for layer in layers if fnmatch(layer.name, glob)]
    if not chosen:
        return f'{side}: no layer matches {glob!r}'
    return '\n'.join(_lines(side, chosen, other))


def _lines(side: str, chosen: Sequence[Layer], other: Sequence[Layer]) -> Iterator[str]:
    shapes = {layer.shape for layer in other}
    size = 'x'.join(map(str, chosen[0].image_size))
    yield f'{side}: {len(chosen)} layers; output shapes for one image of {size}'
    if other:
        yield '= marks a shape that a layer of the other side has too'
    width = max(len(layer.name) for layer in chosen)
    kind_width = max(len(layer.kind) for layer in chosen)
    yield f'  {"layer":<{width}}  {"class":<{kind_width}}  {"output":<18}  {"parameters":>12}'
    for layer in chosen:
        mark = '=' if layer.shape in shapes else ' '
        shape = 'x'.join(map(str, layer.shape))
        yield (
            f'{mark} {layer.name:<{width}}  {layer.kind:<{kind_width}}  {shape:<18}  '
            f'{layer.parameters:>12,}'
        )
