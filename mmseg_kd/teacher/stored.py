"""A teacher whose class scores come with the images: it is not run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmseg_kd.datasets.stored_scores import FIELD, positions
from mmseg_kd.errors import ConfigError
from mmseg_kd.networks.roles import Roles
from mmseg_kd.networks.taps import Taps


class StoredTeacher:
    """Takes the place of a `Teacher` where its scores were kept.

    Args:
        network: The network that they are from, with its weights. It stays where it is, for it
            takes no part in training.
        layers: All that will be asked for, which can be its class scores alone.
        sha256: Of its weights.
        label: What messages call it.

    Raises:
        ConfigError: A layer is another one.
    """

    def __init__(
        self, network: nn.Module, layers: Collection[str], sha256: str, label: str = 'teacher'
    ) -> None:
        self.network = network.requires_grad_(False).eval()
        self.label = label
        self.is_complete = False
        self.own_weights: str | None = None
        self._sha256 = sha256
        scores = Roles(network).scores() if layers else None
        for layer in layers:
            if layer != scores:
                raise ConfigError(
                    f'{label}.stored: {layer!r} is tapped, and class scores alone are kept'
                    + (f', of {scores!r}' if scores else '')
                    + "; tap '@scores' of both, or omit stored."
                )

    def __deepcopy__(self, memo: dict[int, Any]) -> StoredTeacher:
        return self

    def __call__(
        self, images_NCHW: Tensor, data_samples: Sequence[Any], layers: Collection[str]
    ) -> Taps:
        """The scores (N, C, h, w) of a batch, as if a layer had put them out.

        Raises:
            ConfigError: They are not there, or another network's.
        """
        height, width = images_NCHW.shape[-2:]
        found = [self._of(sample, height, width) for sample in data_samples]
        scores = torch.stack(found).to(images_NCHW.device)
        return Taps(dict.fromkeys(layers, scores), (height, width))

    def _of(self, sample: Any, height: int, width: int) -> Tensor:
        kept = sample.get(FIELD)
        if kept is None:
            raise ConfigError(
                f'{self.label}.stored: the images come without scores; put '
                "dict(type='PackStoredScores', folder=...) in the place of PackSegInputs."
            )
        if kept.sha256 != self._sha256:
            theirs, ours = kept.sha256[:12], self._sha256[:12]
            raise ConfigError(
                f"{self.label}.stored: the scores are another network's: of weights with the "
                f'SHA-256 {theirs}, and its own have {ours}.'
            )
        scores: Tensor = kept.data.float()
        # The images of a batch are padded at the right and the bottom, to one size; there the
        # scores are what `PackStoredScores` has outside of an image.
        size = positions((height, width), kept.stride)
        padded = scores.amin((1, 2), keepdim=True).repeat(1, *size)
        padded[:, : scores.shape[-2], : scores.shape[-1]] = scores
        return padded

    def join(self, outputs: Mapping[str, Tensor]) -> None:
        """There is no stream to wait for."""

    def apply(self, function: Callable[[Tensor], Tensor]) -> None:
        """The network is not run: its tensors stay as they are."""
