"""The SHA-256 of a file."""

from __future__ import annotations

import hashlib
from pathlib import Path

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
