"""From a network to a graph of torch.export, and to the bytes of a file."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from mmseg_kd.errors import ExportError
from mmseg_kd.export.deployed import Deployed


def trace(deployed: Deployed, image: Tensor, fixed_size: bool = False) -> ExportedProgram:
    """The graph of a forward pass, for any number of images of any size.

    Args:
        deployed: What is exported.
        image: An input of it, for one image.
        fixed_size: Height and width are those of `image`; the number of images varies all the same.

    Raises:
        ExportError: The network does something that a graph cannot have; the layer is named.
    """
    axes = deployed.axes()
    varying = ('batch',) if fixed_size else ('batch', 'height', 'width')
    # A batch of one would be taken for a constant.
    images = torch.cat([image, image])
    shapes = {'image': {axes[name]: Dim.DYNAMIC for name in varying}}
    with torch.no_grad(), _plain_attention(), _Whereabouts(deployed.network) as whereabouts:
        try:
            return torch.export.export(deployed, (images,), dynamic_shapes=shapes, strict=False)
        except Exception as error:  # tracing runs the network's own code
            advice = (
                'Change the layer so that its work does not depend on the values of tensors.'
                if fixed_size
                else 'If its work depends on the size of the image, --fixed-size HEIGHT WIDTH '
                'exports the network for one size.'
            )
            raise ExportError(
                f'expected a network whose graph can be taken, but {whereabouts} fails: '
                f'{type(error).__name__}: {_first_line(error)} {advice}'
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
        self._layers = {name: module for name, module in network.named_modules() if name}
        self._running: list[str] = []
        self._last = ''

    def __enter__(self) -> _Whereabouts:
        # By name: while a graph is taken, hooks may be called with a stand-in for the module.
        self._handles = [
            handle
            for name, module in self._layers.items()
            for handle in (
                module.register_forward_pre_hook(partial(self._begin, name)),
                module.register_forward_hook(self._end),
            )
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _begin(self, name: str, *_: Any) -> None:
        self._running.append(name)

    def _end(self, *_: Any) -> None:
        self._last = self._running.pop()

    def __str__(self) -> str:
        if self._running:
            return f'layer {self._running[-1]!r}'
        return f'what follows layer {self._last!r}' if self._last else 'the network'


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Without torch's shortcut for attention, an operation that other runtimes do not have."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _first_line(error: Exception) -> str:
    line = next((line for line in str(error).splitlines() if line.strip()), '').strip()
    return line if line.endswith('.') else f'{line}.'
