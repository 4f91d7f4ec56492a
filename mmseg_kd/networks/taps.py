"""What can be tapped by name, and what a tapped network gave."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mmseg_kd.errors import ConfigError, LayerNotFoundError, ShapeError, nearest
from mmseg_kd.networks.tap_name import TapName, import_function, parse_tap_name, pick, tensors_in
from mmseg_kd.networks.tokens import as_map

# Of one call of a module, with its arguments and its output, None before it: what it gives.
_See = Callable[[tuple[Any, ...], dict[str, Any], Any], Any]
Read = Callable[[tuple[Any, ...], dict[str, Any], Any], Tensor]

# Inside nn.MultiheadAttention nothing is a module that is called: these names stand for what it
# computes from its weights.
ATTENTION_PARTS = ('query', 'key', 'value', 'weights')


@dataclass(frozen=True)
class Tap:
    """A named place in a network: a module, and what to read of one call of it.

    Attributes:
        module: The module.
        read: Makes the tapped tensor of a call.
        is_input: Whether it is read before the module runs, which may change its input in place.
    """

    module: nn.Module
    read: Read
    is_input: bool = False

    def through(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """What of a call lies on the network's way: the output, or the first argument."""
        return _input(args, kwargs, output) if self.is_input else output

    def watch(self, see: _See) -> RemovableHandle:
        """Have `see` called with the arguments and the output of each call, for `read`.

        What it returns, unless that is None, the network goes on with in place of what `through`
        gives.
        """
        if self.is_input:

            def before(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
                other = see(args, kwargs, None)
                if other is None:
                    return None
                if args:
                    return (other, *args[1:]), kwargs
                return (), {**kwargs, next(iter(kwargs)): other}

            return self.module.register_forward_pre_hook(before, with_kwargs=True)

        def after(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
            return see(args, kwargs, output)

        return self.module.register_forward_hook(after, with_kwargs=True)


def find_tap(model: nn.Module, name: str, side: str) -> Tap:
    """The tap called `name`.

    Args:
        model: The network.
        name: A module's name as in `named_modules()`, for its output; or, with one of
            `ATTENTION_PARTS` behind the name of an nn.MultiheadAttention, its projected query,
            key or value (N, L, C) or its attention weights (N, L, S), the mean over the heads.
            Behind a module's name `:input` means what goes into it, its first argument; behind
            either `[KEY]` an entry of a tuple or dict, and ` | MODULE:FUNCTION` that the value
            goes through a function, which must give one tensor.
        side: Which network it is, for messages.

    Raises:
        LayerNotFoundError: There is no such name; the message has the nearest ones.
        ConfigError: The name has another form, its function cannot be imported, or it means the
            attention weights of a student that drops some of them.
    """
    parsed = parse_tap_name(name)
    module = _submodule(model, parsed.layer)
    if module is not None and parsed.layer:
        of_call = _input if parsed.is_input else _output
        return Tap(module, _tensor_of(parsed, module, of_call), parsed.is_input)
    parent, _, part = parsed.layer.rpartition('.')
    owner = _submodule(model, parent)
    if isinstance(owner, nn.MultiheadAttention) and part in ATTENTION_PARTS and not parsed.is_input:
        if part == 'weights' and side == 'student' and owner.dropout > 0:
            raise ConfigError(
                f'{name!r}: the student drops attention weights (dropout {owner.dropout}), so that '
                'they are no distribution in training; set attn_drop_rate=0.'
            )
        return Tap(owner, _tensor_of(parsed, owner, _attention_part(parsed.layer, owner, part)))
    raise LayerNotFoundError(
        f'the {side} has no layer {parsed.layer!r}; {nearest(parsed.layer, tap_names(model))}. '
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


def _input(args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    return next(iter((*args, *kwargs.values())), None)


def _output(args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    return output


def _tensor_of(name: TapName, module: nn.Module, of_call: _See) -> Read:
    """The tensor that a name means of what a call gives."""
    function = None if name.function is None else import_function(name.function, name.text)

    def read(args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Tensor:
        value = of_call(args, kwargs, output)
        for key in name.keys:
            value = pick(value, key, name.text)
        if function is not None:
            try:
                value = function(value)
            except Exception as error:  # whatever the user's function raises
                raise ShapeError(f'{name.text!r}: {type(error).__name__}: {error}') from error
        if isinstance(value, Tensor):
            return value
        found = [repr(text) for text, _ in tensors_in(value, name.text)]
        verb = 'gives' if function else 'takes' if name.is_input else 'puts out'
        hint = 'tap a layer inside it or after it.'
        if isinstance(module, nn.MultiheadAttention):
            parts = ', '.join(f'{name.layer}.{part}' for part in ATTENTION_PARTS)
            hint = f'tap one of {parts}.'
        elif function:
            hint = 'expected one tensor.'
        elif found:
            hint = f'tap {", ".join(found[:6])}, or {hint.removeprefix("tap ")}'
        raise ShapeError(
            f'layer {name.text!r} ({type(module).__name__}) {verb} a {type(value).__name__}, not '
            f'one tensor; {hint}'
        )

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
