"""Plain weights into a file."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from mmseg_kd.errors import CheckpointError

FORMATS = ('.pth', '.safetensors')


def check_format(target: Path) -> None:
    """See that weights can be saved under this name.

    Raises:
        CheckpointError: It does not end in .pth or .safetensors.
    """
    if target.suffix not in FORMATS:
        raise CheckpointError(f'{target}: expected a name that ends in {" or ".join(FORMATS)}.')


def save_weights(tensors: Mapping[str, Tensor], target: Path, meta: Mapping[str, Any]) -> None:
    """Write weights as a whole or not at all.

    Args:
        target: `.pth`, a pickle with the tensors under `state_dict` and `meta`; or
            `.safetensors`, where what is no text in `meta` becomes JSON. Its folder is made.

    Raises:
        CheckpointError: `target` has another ending, or cannot be written.
    """
    check_format(target)
    with atomic_write(target) as partial:
        if target.suffix == '.pth':
            torch.save(dict(state_dict=dict(tensors), meta=dict(meta)), partial)
        else:
            # The format has neither strides nor tensors that share their memory.
            copies = {k: v.clone(memory_format=torch.contiguous_format) for k, v in tensors.items()}
            texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in meta.items()}
            save_file(copies, partial, {'format': 'pt', **texts})


@contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """A name to write to, which becomes `target` when all is written and on the disk.

    Raises:
        CheckpointError: It cannot be written.
    """
    partial = target.with_name(f'.{target.name}.partial-{os.getpid()}')
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        take_name(partial, target)
    except (OSError, RuntimeError, SafetensorError) as error:  # the last two: a full disk
        raise CheckpointError(f'{target}: cannot be written: {error}.') from error
    finally:
        with suppress(OSError):
            partial.unlink()


def take_name(temporary: Path, path: Path) -> None:
    """Bring a file to the disk, whole, and then let it take a name beside it.

    Raises:
        OSError: The disk is full, or anything else that the system says.
    """
    with temporary.open('rb') as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems have nothing to do here and say so.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)
