"""A network that torch.compile runs to its tapped layers."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmseg_kd.errors import ConfigError
from mmseg_kd.networks.forward import as_network, run_to_layers
from mmseg_kd.networks.taps import Tap, find_tap


class CompiledTaps:
    """Runs a network as torch.compile makes it, and as it is where that fails.

    Compiled, the network runs whole, whatever layers are asked for: the exception that stops it
    early cannot be compiled. What lies behind the last tap is no part of the result, so that a
    compiler that drops dead code, as inductor does, leaves it out. The hooks of the taps stay on
    the network, since hooks that come and go would have it compiled anew.

    Args:
        network: In eval mode.
        layers: All that can be asked for.
        modified_in_place: Layers whose output the network changes in place later.
        calls: As in `run_to_layers`.
        arguments: Those of torch.compile.
        label: What messages call the network.

    Raises:
        ConfigError: torch.compile refuses the arguments.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Collection[str],
        modified_in_place: Collection[str],
        calls: Mapping[str, int],
        arguments: Mapping[str, Any],
        label: str,
    ) -> None:
        try:
            self._compiled: Any = torch.compile(self._run, **arguments)
        except Exception as error:  # each backend has errors of its own
            raise ConfigError(f'{label}.compile: {_reason(error)}') from error
        self._module = network
        self._network = as_network(network)
        self._modified_in_place = modified_in_place
        self._calls = calls
        self._label = label
        self._is_running = False
        self._outputs: dict[str, Tensor] = {}
        self._hooks = ExitStack()
        self._hooks.enter_context(self._network.running(layers))
        for name in layers:
            tap = find_tap(network, name, label)
            self._hooks.callback(tap.watch(self._make_keep(name, tap)).remove)

    def _make_keep(self, name: str, tap: Tap) -> Any:
        def keep(args: Any, kwargs: dict[str, Any], output: Any) -> None:
            if self._is_running:  # others may run the network too
                output = tap.read(args, kwargs, output)
                self._outputs[name] = output.clone() if name in self._modified_in_place else output

        return keep

    def _run(self, images_NCHW: Tensor) -> dict[str, Tensor]:
        self._network.run(images_NCHW)
        return dict(self._outputs)

    def __call__(self, images_NCHW: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
        """The outputs of `layers`, as `run_to_layers` gives them."""
        if self._compiled is None:
            return run_to_layers(
                self._module, images_NCHW, layers, self._modified_in_place, self._calls
            )
        # What the function finds there is a part of what it is compiled for.
        self._outputs.clear()
        self._is_running = True
        try:
            outputs = self._compiled(images_NCHW)
        except Exception as error:  # whatever the compiler, and the one that it calls, raises
            self._give_up(error)
            return self(images_NCHW, layers)
        finally:
            self._is_running = False
            self._outputs.clear()
        return {name: outputs[name] for name in layers}

    def _give_up(self, error: Exception) -> None:
        self._compiled = None
        self._hooks.close()
        print_log(
            f'{self._label.capitalize()}: torch.compile failed and is left out: {_reason(error)}',
            logger='current',
            level=logging.WARNING,
        )


def _reason(error: Exception) -> str:
    """The first line of what may be pages, without the wrapping that dynamo puts around it."""
    error = getattr(error, 'inner_exception', error)
    line, _, _ = str(error).strip().partition('\n')
    return f'{type(error).__name__}: {line}'
