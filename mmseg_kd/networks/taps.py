"""What can be tapped by name, and what a tapped network gave."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_kd.errors import ConfigError, LayerNotFoundError, ShapeError, nearest
from mmseg_kd.networks.tokens import as_map

# Of one call of a module, with its arguments and its output: what the tap keeps.
Read = Callable[[tuple[Any, ...], dict[str, Any], Any], Tensor]

# Inside nn.MultiheadAttention nothing is a module that is called: these names stand for what it
# computes from its weights.
ATTENTION_PARTS = ('query', 'key', 'value', 'weights')


@dataclass(frozen=True)
class Tap:
    """A named place in a network: a module, and what to read of one call of it."""

    module: nn.Module
    read: Read


def find_tap(model: nn.Module, name: str, side: str) -> Tap:
    """The tap called `name`.

    Args:
        model: The network.
        name: A module's name as in `named_modules()`, for its output; or, with one of
            `ATTENTION_PARTS` behind the name of an nn.MultiheadAttention, its projected query,
            key or value (N, L, C) or its attention weights (N, L, S), the mean over the heads.
        side: Which network it is, for messages.

    Raises:
        LayerNotFoundError: There is no such name; the message has the nearest ones.
        ConfigError: The attention weights of a student that drops some of them.
    """
    module = _submodule(model, name)
    if module is not None and name:
        return Tap(module, _output_of(name, module))
    parent, _, part = name.rpartition('.')
    owner = _submodule(model, parent)
    if isinstance(owner, nn.MultiheadAttention) and part in ATTENTION_PARTS:
        if part == 'weights' and side == 'student' and owner.dropout > 0:
            raise ConfigError(
                f'{name!r}: the student drops attention weights (dropout {owner.dropout}), so that '
                'they are no distribution in training; set attn_drop_rate=0.'
            )
        return Tap(owner, _attention_part(name, owner, part))
    raise LayerNotFoundError(
        f'the {side} has no layer {name!r}; {nearest(name, tap_names(model))}. '
        'mmseg-kd layers CONFIG prints them all.'
    )


def no_gradient(where: str, layer: str) -> ConfigError:
    """What is wrong with a tapped layer through which the student learns nothing."""
    return ConfigError(
        f'{where}: {layer!r} gives the student no gradient: it is frozen, or recomputed in the '
        'backward pass; set frozen_stages=-1 and with_cp=False, or tap another layer.'
    )


def _submodule(model: nn.Module, name: str) -> nn.Module | None:
    try:
        return model.get_submodule(name)
    except AttributeError:
        return None


def tap_names(model: nn.Module) -> Iterator[str]:
    """All names that can be tapped, in the order of `named_modules()`."""
    for name, module in model.named_modules():
        if name:
            yield name
        if isinstance(module, nn.MultiheadAttention):
            yield from (f'{name}.{part}' for part in ATTENTION_PARTS)


def _output_of(name: str, module: nn.Module) -> Read:
    def read(args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Tensor:
        if not isinstance(output, Tensor):
            hint = 'tap a layer inside it or after it.'
            if isinstance(module, nn.MultiheadAttention):
                hint = f'tap one of {", ".join(f"{name}.{part}" for part in ATTENTION_PARTS)}.'
            raise ShapeError(
                f'layer {name!r} ({type(module).__name__}) puts out a '
                f'{type(output).__name__}, not one tensor; {hint}'
            )
        return output

    return read


def _attention_part(name: str, module: nn.MultiheadAttention, part: str) -> Read:
    signature = inspect.signature(module.forward)

    def read(args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Tensor:
        if part == 'weights':
            weights: Tensor | None = output[1]
            if weights is None:
                raise ShapeError(f'{name!r}: the network asks this layer for no weights.')
            return weights.mean(1) if weights.ndim == 4 else weights
        given = signature.bind(*args, **kwargs).arguments[part]
        projected = F.linear(given, *_projection(module, part))
        return projected if module.batch_first else projected.transpose(0, 1)

    return read


def _projection(module: nn.MultiheadAttention, part: str) -> tuple[Tensor, Tensor | None]:
    """Weight and bias with which the module projects its query, key or value."""
    index = ATTENTION_PARTS.index(part)
    packed: Tensor | None = module.in_proj_weight
    if packed is not None:
        weight = packed.chunk(3)[index]
    else:  # query, key and value have different channels
        weight = getattr(module, f'{part[0]}_proj_weight')
    bias: Tensor | None = module.in_proj_bias
    return weight, None if bias is None else bias.chunk(3)[index]


@dataclass(frozen=True)
class Taps:
    """What the tapped layers of a network put out for one batch.

    Attributes:
        outputs: By the layers' names.
        image_size: Height and width of the images that went in.
    """

    outputs: Mapping[str, Tensor]
    image_size: tuple[int, int]

    def __getitem__(self, layer: str) -> Tensor:
        return self.outputs[layer]

    def map(self, layer: str) -> Tensor:
        """A layer's output as a map (N, C, h, w).

        Raises:
            ShapeError: It is neither a map nor tokens.
        """
        return as_map(self.outputs[layer], self.image_size, layer)
