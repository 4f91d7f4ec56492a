"""Any module that takes images."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn

from mmseg_kd.networks.network import Preprocessing, channels_of, sizes_of


class ModuleNetwork:
    """A module of which nothing is known but that `module(images)` runs it.

    Args:
        module: The module.
    """

    num_classes: int | None = None
    preprocessing = Preprocessing()

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    # Looked for when asked: a teacher of any module is wrapped anew in each step.
    @property
    def channels(self) -> int:
        return channels_of(self._module, self.preprocessing)

    @property
    def input_sizes(self) -> list[tuple[int, int]]:
        return sizes_of(self._module)

    def run(self, images_NCHW: Tensor) -> Any:
        return self._module(images_NCHW)

    def running(self, layers: Collection[str]) -> AbstractContextManager[None]:
        return nullcontext()

    def scored_classes(self, layer: str) -> int | None:
        return None
