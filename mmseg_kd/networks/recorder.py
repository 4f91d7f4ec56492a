"""Taps: keep what named layers of a network put out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from mmseg_kd.networks.taps import Tap, find_tap


class ForwardStopped(BaseException):
    """Every tapped layer has run. No Exception, so that no network's `except` eats it."""


class Recorder:
    """Keeps the outputs of named layers while the context is open.

    The hooks are removed and the outputs dropped when the context closes. A layer that runs
    several times in one forward leaves its last output.

    Args:
        model: The network.
        layers: Names as in `find_tap`.
        modified_in_place: Layers whose output the network changes in place later, as
            ReLU(inplace=True) does: the network goes on with a copy of these.
        calls: How often each layer runs in a forward: `ForwardStopped` is raised as soon as all
            have. None: it is not raised.

    >>> with Recorder(model, ['backbone.conv1']) as taps:
    ...     model(images)
    ...     features = taps['backbone.conv1']
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Collection[str],
        modified_in_place: Collection[str] = (),
        calls: Mapping[str, int] | None = None,
    ) -> None:
        self._taps = {name: find_tap(model, name, 'network') for name in layers}
        self._modified_in_place = modified_in_place
        self._stop_after = None if calls is None else Counter({n: calls.get(n, 1) for n in layers})
        self._calls: Counter[str] = Counter()
        self._outputs: dict[str, Tensor] = {}
        self._versions: dict[str, int] = {}
        self._hooks = ExitStack()

    def __enter__(self) -> Recorder:
        for name, tap in self._taps.items():
            self._hooks.enter_context(tap.watch(self._make_keep(name, tap)))
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.close()
        self._outputs.clear()
        self._calls.clear()

    def _make_keep(self, name: str, tap: Tap) -> Any:
        def keep(args: Any, kwargs: dict[str, Any], output: Any) -> Any:
            kept, through = tap.read(args, kwargs, output), tap.through(args, kwargs, output)
            if name in self._modified_in_place:
                if kept is through:
                    # The network goes on with the copy: what is kept lies on its way.
                    through = through.clone()
                else:
                    kept = kept.clone()
            self._outputs[name] = kept
            self._versions[name] = kept._version
            self._calls[name] += 1
            if self._stop_after is not None and self._calls >= self._stop_after:
                raise ForwardStopped
            return through

        return keep

    def __getitem__(self, name: str) -> Tensor:
        return self._outputs[name]

    def __contains__(self, name: str) -> bool:
        return name in self._outputs

    @property
    def outputs(self) -> dict[str, Tensor]:
        """What has been recorded until now, by layer."""
        return dict(self._outputs)

    @property
    def calls(self) -> dict[str, int]:
        """How often each layer has run until now."""
        return dict(self._calls)

    @property
    def modified_in_place(self) -> set[str]:
        """Layers whose output was changed in place after it was recorded."""
        return {n for n, out in self._outputs.items() if out._version != self._versions[n]}
