"""Weights from a file or URL into a network, with a report of what fitted."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from safetensors.torch import load_file
from torch import Tensor, nn

from mmseg_kd.errors import CheckpointError

try:  # numpy 2 moved it
    from numpy._core import multiarray
except ImportError:  # pragma: no cover
    from numpy.core import multiarray  # type: ignore[no-redef]


def _history_method(owner: Any, name: str) -> Any:
    """What `getattr` may do in a checkpoint: name a statistic of the runner's log history."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'current', 'mean'):
        raise pickle.UnpicklingError(f'getattr({owner!r}, {name!r}) is not allowed')
    return getattr(owner, name)


# The runner saves its log history with the weights; nothing else than data is in these types.
_HISTORY_GLOBALS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    HistoryBuffer,
    multiarray._reconstruct,
    multiarray.scalar,
    # Files written under either major version of numpy are read under both.
    (multiarray._reconstruct, 'numpy.core.multiarray._reconstruct'),
    (multiarray.scalar, 'numpy.core.multiarray.scalar'),
    (multiarray._reconstruct, 'numpy._core.multiarray._reconstruct'),
    (multiarray.scalar, 'numpy._core.multiarray.scalar'),
    np.ndarray,
    np.dtype,
    *(
        type(np.dtype(t))
        for t in (np.float64, np.float32, np.float16, np.int64, np.int32, np.uint8, np.bool_)
    ),
    (_history_method, 'builtins.getattr'),
]


@dataclass(frozen=True)
class LoadReport:
    """Which of a network's tensors a checkpoint filled.

    Attributes:
        source: The file or URL.
        loaded: Keys that were filled.
        missing: Keys of the network that the checkpoint does not have.
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
            f'{key} ({_shape(theirs)} in the file, {_shape(ours)} in the network)'
            for key, (theirs, ours) in self.mismatched.items()
        ]


def _shape(shape: tuple[int, ...]) -> str:
    return 'x'.join(map(str, shape)) or 'scalar'


def _some(items: Sequence[str], n: int = 4) -> str:
    return ', '.join(items[:n]) + (f', ... ({len(items) - n} more)' if len(items) > n else '')


def read_state_dict(source: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint, by key, on the CPU.

    Understands a bare state dict, and one under `state_dict` or `model`. Prefixes that
    wrappers leave (`module.`, and `student.` of a distillation checkpoint) are taken off; in
    a distillation checkpoint only the student's tensors are returned. No code in the file is
    run.

    Args:
        source: A pickle of torch or a `.safetensors` file, or a pickle's https URL, which is
            downloaded once into torch's hub cache.

    Raises:
        CheckpointError: The file is missing, torn, no checkpoint, or wants to run code.
    """
    tensors = read_tensors(source)
    if any(key.startswith('student.') for key in tensors):
        tensors = {k: v for k, v in tensors.items() if k.startswith('student.')}
        tensors = without_prefix(tensors, 'student.')
    return tensors


def read_tensors(source: str) -> dict[str, Tensor]:
    """All the tensors of a checkpoint: as `read_state_dict`, but `student.` stays in the keys.

    Raises:
        CheckpointError: As in `read_state_dict`.
    """
    content = _read(source)
    for key in ('state_dict', 'model'):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f'{source}: expected a dict of tensors, got {type(content).__name__}.'
        )
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    if not tensors:
        raise CheckpointError(f'{source}: there are no tensors in it; is it a checkpoint?')
    return without_prefix(tensors, 'module.')


def _read(source: str) -> Any:
    try:
        with torch.serialization.safe_globals(_HISTORY_GLOBALS):
            if source.startswith('https://'):
                if urlparse(source).path.endswith(('.safetensors', '/pytorch_model.bin')):
                    # Torch's cache goes by the file's name, and these files share theirs.
                    raise CheckpointError(
                        f'{source}: is not downloaded. Download it by hand and give the path of '
                        'the file.'
                    )
                return torch.hub.load_state_dict_from_url(
                    source, map_location='cpu', check_hash=False, weights_only=True
                )
            if '://' in source:
                raise CheckpointError(f'{source}: expected a file or an https URL.')
            path = Path(source).expanduser()
            if not path.is_file():
                raise CheckpointError(f'{source}: there is no such checkpoint file.')
            if path.suffix == '.safetensors':
                return load_file(path)
            return torch.load(path, map_location='cpu', weights_only=True)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        unsafe = re.search(r'GLOBAL (\S+)', str(error))
        if unsafe:
            raise CheckpointError(
                f'{source}: refused, because reading it would run code ({unsafe[1]}). Save its '
                'state dict alone and use that.'
            ) from error
        # Without torch's advice before it, to read the file unchecked.
        reason = str(error).split('WeightsUnpickler error:')[-1].strip().partition('\n')[0]
        raise CheckpointError(f'{source}: torn or no checkpoint ({reason}).') from error
    except URLError as error:
        raise CheckpointError(
            f'{source}: could not be downloaded ({error.reason}). Download it by hand and give '
            'the path of the file.'
        ) from error
    except Exception as error:  # bytes that are no pickle break its reader in any way
        raise CheckpointError(f'{source}: torn or no checkpoint ({first_line(error)}).') from error


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or else its name."""
    return (str(error) or type(error).__name__).splitlines()[0]


def without_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The same tensors, their keys without `prefix` where they begin with it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items()}


def load_weights(model: nn.Module, source: str) -> LoadReport:
    """Fill `model` with the tensors of `source` that fit, and report.

    Raises:
        CheckpointError: As in `read_state_dict`, or not one tensor fits.
    """
    theirs = read_state_dict(source)
    ours = model.state_dict()
    mismatched = {
        key: (tuple(theirs[key].shape), tuple(ours[key].shape))
        for key in theirs.keys() & ours.keys()
        if theirs[key].shape != ours[key].shape
    }
    fitting = {k: v for k, v in theirs.items() if k in ours and k not in mismatched}
    report = LoadReport(
        source=source,
        loaded=sorted(fitting),
        # A counter of batches that old files lack and that eval mode does not use.
        missing=[k for k in ours if k not in theirs and not k.endswith('num_batches_tracked')],
        unexpected=[k for k in theirs if k not in ours],
        mismatched=dict(sorted(mismatched.items())),
    )
    if not fitting:
        raise CheckpointError(
            f'{source}: belongs to another network: none of its {len(theirs)} tensors fits. '
            f'It has {_some(sorted(theirs), 2)}; expected {_some(sorted(ours), 2)}.'
        )
    model.load_state_dict(fitting, strict=False)
    return report
