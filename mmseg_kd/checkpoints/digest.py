"""The SHA-256 of a file, and of tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

_BLOCK = 1 << 20


def sha256_of(path: Path, without: int = 0) -> str:
    """The SHA-256 of a file, 64 hexadecimal digits.

    Args:
        path: The file.
        without: How many bytes at its end are left out.
    """
    digest = hashlib.sha256()
    left = path.stat().st_size - without
    with path.open('rb') as file:
        while block := file.read(max(0, min(left, _BLOCK))):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()


def sha256_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """The SHA-256 of tensors on the CPU with their keys, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(key.encode())
        digest.update(tensors[key].detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
