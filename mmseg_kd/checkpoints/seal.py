"""Checkpoints that say of themselves whether they are whole.

A seal is the comment at the end of the zip archive that `torch.save` makes: when the file was
written, and the SHA-256 of all that stands before the sum. It lies in the file itself, so that the
two cannot part, and readers of such archives skip it.

By hand: `head -c -64 FILE | sha256sum` gives what `tail -c 64 FILE` shows.
"""

from __future__ import annotations

import hashlib
import re
import struct
import time
import zipfile
from pathlib import Path

from mmseg_kd.checkpoints.digest import sha256_of
from mmseg_kd.checkpoints.load import read_tensors
from mmseg_kd.errors import CheckpointError

# An archive ends with a record of this beginning and length; its last field is the comment's size.
_END, _END_BYTES = b'PK\x05\x06', 22
_SUM_BYTES = 64
_TEXT = b'mmseg_kd saved %020d sha256 '
_SEAL_BYTES = len(_TEXT % 0) + _SUM_BYTES
_SEAL = re.compile(rb'mmseg_kd saved (\d{20}) sha256 ([0-9a-f]{64})')


def seal(content: bytes) -> list[bytes | memoryview]:
    """The parts of a sealed file, to be written one after the other.

    Args:
        content: What `torch.save` wrote. Anything else than an archive comes back as it is.
    """
    if not _ends_without_comment(content[-_END_BYTES:]):
        return [content]
    body = memoryview(content)[:-2]
    tail = struct.pack('<H', _SEAL_BYTES) + _TEXT % time.time_ns()
    digest = hashlib.sha256(body)
    digest.update(tail)
    return [body, tail, digest.hexdigest().encode()]


def _ends_without_comment(end: bytes) -> bool:
    return end.startswith(_END) and end.endswith(b'\0\0')


def _last(path: Path, count: int) -> bytes:
    """The last bytes of a file."""
    with path.open('rb') as file:
        file.seek(max(0, file.seek(0, 2) - count))
        return file.read()


def saved_at(path: Path) -> int:
    """When a checkpoint was written, in nanoseconds since 1970; 0 for one without a seal."""
    found = _SEAL.fullmatch(_last(path, _SEAL_BYTES))
    return int(found[1]) if found else 0


def check_intact(path: Path) -> None:
    """See that a checkpoint is as it was written.

    One with a seal must agree with it. One without, as mmengine writes it, must agree with the
    archive's own sums (CRC-32 of every tensor); one of the format before the archives must be
    readable.

    Raises:
        CheckpointError: The file is missing, torn or was altered.
    """
    if not path.is_file():
        raise CheckpointError(f'{path}: there is no such checkpoint file.')
    found = _SEAL.fullmatch(_last(path, _SEAL_BYTES))
    if found:
        if sha256_of(path, without=_SUM_BYTES) != found[2].decode():
            raise CheckpointError(
                f'{path}: was altered after it was written (its SHA-256 is another).'
            )
    elif zipfile.is_zipfile(path):
        _check_archive(path)
    else:
        read_tensors(str(path))


def _check_archive(path: Path) -> None:
    # torch leaves no comment: this one was, or was to be, a seal.
    if not _ends_without_comment(_last(path, _END_BYTES)):
        raise CheckpointError(f'{path}: torn or altered (its seal is not complete).')
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except Exception as error:  # bytes that are no archive break its reader in any way
        raise CheckpointError(f'{path}: torn or altered ({error}).') from error
    if broken:
        raise CheckpointError(f'{path}: torn or altered ({broken} does not have its checksum).')
