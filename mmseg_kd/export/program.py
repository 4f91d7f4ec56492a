"""From a network to a graph of torch.export, and to the bytes of a file."""

from __future__ import annotations

import io
from collections.abc import Collection
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from mmseg_kd.errors import ExportError
from mmseg_kd.export.export_module import ExportModule

# The dimensions that may vary, with the option of the command that keeps one from it.
OPTIONS = {
    'batch': '--one-image',
    'height': '--fixed-size HEIGHT WIDTH',
    'width': '--fixed-size HEIGHT WIDTH',
}


def trace(
    deployed: ExportModule, image: Tensor, varying: Collection[str] = tuple(OPTIONS)
) -> ExportedProgram:
    """The graph of a forward pass.

    Args:
        deployed: What is exported.
        image: An input of it, for one image.
        varying: Which of 'batch', 'height' and 'width' inputs may differ in; the others are those
            of `image`.

    Raises:
        ExportError: The network does something that a graph cannot have; the layer is named. Or
            its code takes one of `varying` for a constant.
    """
    axes = deployed.axes()
    # A dimension of one would be taken for a constant.
    images = torch.cat([image, image]) if 'batch' in varying else image
    shapes = {'image': {axes[name]: Dim.DYNAMIC for name in varying}}
    with torch.no_grad(), _Whereabouts(deployed.network) as whereabouts:
        try:
            return torch.export.export(deployed, (images,), dynamic_shapes=shapes, strict=False)
        except Exception as error:  # tracing runs the network's own code
            text = str(error)
            constants = [name for name in varying if f'.size()[{axes[name]}]' in text]
            if 'Constraints violated' in text and constants:
                options = dict.fromkeys(OPTIONS[name] for name in constants)
                raise ExportError(
                    f"the network's code takes {' and '.join(constants)} of the images for "
                    f'constants; export it for one value, with {" ".join(options)}.'
                ) from error
            raise ExportError(
                f'expected a network whose graph can be taken, but {whereabouts} fails: '
                f'{type(error).__name__}: {_first_line(error)} Change the layer so that its work '
                'does not depend on the values of tensors; where it depends on the size of the '
                f'image, {OPTIONS["height"]} exports the network for one size.'
            ) from error


def program_bytes(program: ExportedProgram) -> bytes:
    """A graph with its weights, as `torch.export.load` reads it."""
    content = io.BytesIO()
    torch.export.save(program, content)
    return content.getvalue()


class ProgramModel:
    """What `program_bytes` gives, read again, as a function of one tensor."""

    def __init__(self, content: bytes) -> None:
        self._module = torch.export.load(io.BytesIO(content)).module()

    def __call__(self, image: Tensor) -> Tensor:
        """Run it."""
        output: Tensor = self._module(image)
        return output


class _Whereabouts:
    """Knows which layer of a network runs, and names it after the run has failed."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._hooks = ExitStack()
        self._running: list[str] = []
        self._last = ''

    def __enter__(self) -> _Whereabouts:
        # By name: while a graph is taken, hooks may be called with a stand-in for the module.
        for name, module in self._network.named_modules():
            if name:
                begin = partial(self._begin, name)
                self._hooks.enter_context(module.register_forward_pre_hook(begin))
                self._hooks.enter_context(module.register_forward_hook(self._end))
        return self

    def __exit__(self, *_: object) -> None:
        self._hooks.close()

    def _begin(self, name: str, *_: Any) -> None:
        self._running.append(name)

    def _end(self, *_: Any) -> None:
        self._last = self._running.pop()

    def __str__(self) -> str:
        if self._running:
            return f'layer {self._running[-1]!r}'
        return f'what follows layer {self._last!r}' if self._last else 'the network'


def _first_line(error: Exception) -> str:
    line = next((line for line in str(error).splitlines() if line.strip()), '').strip()
    return line if line.endswith('.') else f'{line}.'
