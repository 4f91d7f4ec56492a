"""How a tap is written: a layer, its input, a part of what it gives, and a function of that.

`LAYER[:input][KEY]...[ | MODULE:FUNCTION]`, all but the layer optional.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mmseg_kd.errors import ConfigError, ShapeError, nearest

_FORM = re.compile(
    r'(?P<layer>[^][:|]*?)(?P<input>:input)?(?P<keys>(?:\[[^][|]+\])*)'
    r'(?: *\| *(?P<function>[\w.]+:\w+))? *'
)


@dataclass(frozen=True)
class TapName:
    """A tap's name, taken apart.

    Attributes:
        text: The name as it is written.
        layer: The layer's name as in `named_modules()`.
        is_input: Whether what goes into the layer is meant, not what it puts out.
        keys: Indices into tuples and keys of dicts, the outermost first.
        function: `MODULE:FUNCTION`, which the value goes through; None: it stays as it is.
    """

    text: str
    layer: str
    is_input: bool = False
    keys: tuple[str, ...] = ()
    function: str | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it is the name of a layer and nothing else."""
        return self.layer == self.text


def parse_tap_name(text: str) -> TapName:
    """Take a tap's name apart.

    Raises:
        ConfigError: It has another form.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"{text!r}: expected a layer's name, behind it ':input', '[KEY]' or "
            "' | MODULE:FUNCTION' where they are meant, in this order."
        )
    keys = tuple(key.strip('\'"') for key in re.findall(r'\[([^]]+)\]', match['keys']))
    return TapName(text, match['layer'], match['input'] is not None, keys, match['function'])


def tensors_in(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors in nested tuples and dicts, by what they are tapped as.

    Args:
        value: What a layer gives.
        name: What that is tapped as.
    """
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from tensors_in(one, f'{name}[{key}]')
    elif isinstance(value, (tuple, list)):
        for index, one in enumerate(value):
            yield from tensors_in(one, f'{name}[{index}]')


def pick(value: Any, key: str, name: str) -> Any:
    """The entry of a tuple or dict that a tap's key names.

    Raises:
        ShapeError: There is no such entry.
    """
    entries: dict[Any, Any] = {}
    if isinstance(value, Mapping):
        entries = dict(value)
    elif isinstance(value, (tuple, list)):
        entries = dict(enumerate(value))
    for one in (key, int(key) if key.isdecimal() else key):
        if one in entries:
            return entries[one]
    has = ', '.join(f'[{one}]' for one in entries) or 'no entries'
    raise ShapeError(f'{name!r}: a {type(value).__name__} has no [{key}]; it has {has}.')


def import_function(path: str, name: str) -> Callable[[Any], Any]:
    """The function `MODULE:FUNCTION` of a tap.

    Raises:
        ConfigError: It cannot be imported, or is no function.
    """
    module_name, _, function_name = path.partition(':')
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a module is code: anything can be raised in it
        raise ConfigError(
            f'{name!r}: {module_name} cannot be imported: {error}; modules are looked for from '
            'the folder that the command runs in, and on PYTHONPATH.'
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        found = [key for key, value in vars(module).items() if callable(value)]
        raise ConfigError(
            f'{name!r}: {module_name} has no function {function_name!r}; '
            f'{nearest(function_name, found)}.'
        )
    return function  # type: ignore[no-any-return]
