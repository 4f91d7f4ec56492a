from __future__ import annotations

import hashlib
import io
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.runner.checkpoint import _load_checkpoint

from mmseg_kd.checkpoints import read_state_dict
from mmseg_kd.checkpoints.seal import check_intact, saved_at, seal
from mmseg_kd.errors import CheckpointError


def saved(**options: Any) -> bytes:
    """What `torch.save` makes of a small state dict."""
    content = io.BytesIO()
    torch.save(dict(state_dict=dict(w=torch.arange(50.0), b=torch.zeros(3))), content, **options)
    return content.getvalue()


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    path = tmp_path / 'iter_1.pth'
    path.write_bytes(b''.join(seal(saved())))
    return path


def test_a_sealed_checkpoint_is_read_as_any_other(sealed: Path) -> None:
    expected = torch.arange(50.0)
    check_intact(sealed)
    assert torch.equal(read_state_dict(str(sealed))['w'], expected)
    assert torch.equal(_load_checkpoint(str(sealed))['state_dict']['w'], expected)
    mapped = torch.load(sealed, mmap=True, weights_only=True)
    assert torch.equal(mapped['state_dict']['w'], expected)
    assert zipfile.ZipFile(sealed).testzip() is None


def test_the_sum_is_that_of_all_before_it(sealed: Path) -> None:
    content = sealed.read_bytes()
    assert hashlib.sha256(content[:-64]).hexdigest().encode() == content[-64:]


def test_it_says_when_it_was_written(tmp_path: Path, sealed: Path) -> None:
    assert 0 <= time.time_ns() - saved_at(sealed) < 60e9
    plain = tmp_path / 'plain.pth'
    plain.write_bytes(saved())
    assert saved_at(plain) == 0


def test_every_altered_byte_is_seen(sealed: Path) -> None:
    content = sealed.read_bytes()
    # All of the end, where the archive's directory and the seal are, and a part of the rest.
    places = [*range(0, len(content), 97), *range(len(content) - 250, len(content))]
    for place in places:
        altered = bytearray(content)
        altered[place] ^= 0x10
        sealed.write_bytes(altered)
        with pytest.raises(CheckpointError, match=r'torn or|altered'):
            check_intact(sealed)
    sealed.write_bytes(content)
    check_intact(sealed)


@pytest.mark.parametrize('sealing', [True, False])
def test_every_length_that_is_too_short_is_seen(tmp_path: Path, sealing: bool) -> None:
    content = b''.join(seal(saved())) if sealing else saved()
    path = tmp_path / 'torn.pth'
    for length in (*range(0, len(content), 101), *range(len(content) - 130, len(content))):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match='torn'):
            check_intact(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r'absent\.pth: there is no such checkpoint file'):
        check_intact(tmp_path / 'absent.pth')


@pytest.mark.parametrize('archive', [True, False])
def test_checkpoints_without_a_seal_are_whole_if_they_can_be_read(
    tmp_path: Path, archive: bool
) -> None:
    content = saved(_use_new_zipfile_serialization=archive)
    path = tmp_path / 'plain.pth'
    path.write_bytes(content)
    check_intact(path)
    place = content.find(torch.arange(50.0).numpy().tobytes())
    altered = bytearray(content)
    altered[place + 100] ^= 1
    path.write_bytes(altered)
    if archive:
        with pytest.raises(CheckpointError, match=r'its checksum|CRC'):
            check_intact(path)


def test_what_is_no_archive_is_not_sealed() -> None:
    assert seal(b'text') == [b'text']
    assert seal(b'') == [b'']
    commented = b''.join(seal(saved()))
    assert seal(commented) == [commented]
