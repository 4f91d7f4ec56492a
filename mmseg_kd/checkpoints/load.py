"""Weights from a file or URL into a network, with a report of what fitted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from mmseg_kd.checkpoints.read import read_checkpoint
from mmseg_kd.errors import CheckpointError

# What files of some versions lack and the network makes itself: a counter of batches that eval mode
# does not use, and what follows from the size of a window.
_MADE_ANEW = ('num_batches_tracked', 'relative_position_index')


@dataclass(frozen=True)
class LoadReport:
    """Which of a network's tensors a checkpoint filled.

    Attributes:
        source: The file or URL.
        loaded: Keys that were filled.
        missing: Keys of the network that the checkpoint does not have, but for what a network
            makes itself.
        unexpected: Keys of the checkpoint that the network does not have.
        mismatched: Keys of both whose shapes differ, with the shape in the checkpoint and
            in the network.
    """

    source: str
    loaded: Sequence[str]
    missing: Sequence[str]
    unexpected: Sequence[str]
    mismatched: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]

    def __str__(self) -> str:
        text = (
            f'{self.source}: {len(self.loaded)} tensors loaded, {len(self.missing)} missing, '
            f'{len(self.unexpected)} unexpected, {len(self.mismatched)} of another shape'
        )
        for kind, keys in (('missing', self.missing), ('unexpected', self.unexpected)):
            if keys:
                text += f'\n  {kind}: {_some(keys)}'
        if self.mismatched:
            text += f'\n  of another shape: {_some(self.describe_mismatched())}'
        return text

    def describe_mismatched(self) -> list[str]:
        return [
            f'{key} ({shape_text(theirs)} in the file, {shape_text(ours)} in the network)'
            for key, (theirs, ours) in self.mismatched.items()
        ]


def shape_text(shape: Sequence[int]) -> str:
    """A shape as in `3x64`."""
    return 'x'.join(map(str, shape)) or 'scalar'


def _some(items: Sequence[str], n: int = 4) -> str:
    return ', '.join(items[:n]) + (f', ... ({len(items) - n} more)' if len(items) > n else '')


def read_state_dict(source: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint, by key, on the CPU.

    Understands a bare state dict, and one under `state_dict` or `model`. Prefixes that
    wrappers leave (`module.`, and `student.` of a distillation checkpoint) are taken off; in
    a distillation checkpoint only the student's tensors are returned.

    Args:
        source: As in `read_checkpoint`, which reads it: no code in the file is run.

    Raises:
        CheckpointError: The file is missing, torn, no checkpoint, or would run code.
    """
    tensors = read_tensors(source)
    return tensors_below(tensors, 'student.') or tensors


def read_tensors(source: str) -> dict[str, Tensor]:
    """All the tensors of a checkpoint: as `read_state_dict`, but `student.` stays in the keys.

    Raises:
        CheckpointError: As in `read_state_dict`.
    """
    return tensors_of(read_checkpoint(source), source)


def tensors_of(content: Mapping[str, object], source: str) -> dict[str, Tensor]:
    """All the tensors of what was read of a checkpoint, as `read_tensors` gives them.

    Raises:
        CheckpointError: There are none.
    """
    for key in ('state_dict', 'model'):
        inner = content.get(key)
        if isinstance(inner, Mapping):
            content = inner
            break
    tensors = {
        str(k).removeprefix('module.'): v for k, v in content.items() if isinstance(v, Tensor)
    }
    if not tensors:
        raise CheckpointError(f'{source}: there are no tensors in it; is it a checkpoint?')
    return tensors


def tensors_below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose keys begin with `prefix`, by their keys without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def load_weights(model: nn.Module, source: str, strict: bool = True) -> LoadReport:
    """Fill `model` with the tensors of `source` that fit, and report.

    Args:
        model: The network.
        source: As in `read_checkpoint`.
        strict: Whether each of the model's tensors must be filled.

    Raises:
        CheckpointError: As in `read_state_dict`; or not one tensor fits, or not each with `strict`;
            the model is as before then.
    """
    fitting, report = fit(model.state_dict(), read_state_dict(source), source)
    if strict and (report.missing or report.mismatched):
        raise CheckpointError(f'{report}\nGive the checkpoint of the same architecture.')
    model.load_state_dict(fitting, strict=False)
    return report


# Keys as the authors of SegFormer, Hugging Face's copy of it, and those of Swin have them.
_FOREIGN = re.compile(
    r'patch_embed[1-4]\.proj\.|segformer\.encoder\.|layers\.\d\.blocks\.\d+\.attn\.qkv\.'
)


def conversion_hint(keys: Iterable[str]) -> str:
    """How a checkpoint with keys that are not mmseg's is converted, as a sentence; else ''."""
    if not any(map(_FOREIGN.search, keys)):
        return ''
    return (
        " Its keys are those of NVIDIA's, Hugging Face's or Microsoft's files: convert it with "
        'mmseg-kd convert-segdistill checkpoint FILE NEW.'
    )


def fit(
    ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], source: str
) -> tuple[dict[str, Tensor], LoadReport]:
    """What of a checkpoint goes into a network.

    Args:
        ours: The network's tensors, by key.
        theirs: The checkpoint's.
        source: Where they are from, for messages.

    Returns:
        The tensors that fit, and a report of all.

    Raises:
        CheckpointError: Not one fits.
    """
    report = compare(ours, theirs, source)
    if not report.loaded:
        raise CheckpointError(
            f'{source}: belongs to another network: none of its {len(theirs)} tensors fits. '
            f'It has {_some(sorted(theirs), 2)}; expected {_some(sorted(ours), 2)}.'
            f'{conversion_hint(theirs)}'
        )
    return {key: theirs[key] for key in report.loaded}, report


def compare(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], source: str) -> LoadReport:
    """Which of a network's tensors a checkpoint can fill; arguments as in `fit`."""
    common = sorted(theirs.keys() & ours.keys())
    shapes = {key: (tuple(theirs[key].shape), tuple(ours[key].shape)) for key in common}
    return LoadReport(
        source=source,
        loaded=[key for key, (their, our) in shapes.items() if their == our],
        missing=[key for key in ours if key not in theirs and not key.endswith(_MADE_ANEW)],
        unexpected=[key for key in theirs if key not in ours],
        mismatched={key: pair for key, pair in shapes.items() if pair[0] != pair[1]},
    )
