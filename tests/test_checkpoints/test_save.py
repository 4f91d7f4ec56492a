"""Weights into files of both formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from mmseg_kd.checkpoints import read_checkpoint, save, save_weights
from mmseg_kd.errors import CheckpointError

META = dict(source='a.pth', notes=['one', 'two'])


@pytest.mark.parametrize('suffix', save.FORMATS)
def test_what_was_saved_is_read(suffix: str, tmp_path: Path) -> None:
    whole = torch.arange(12.0).view(3, 4)
    tensors = {
        'whole': whole,
        'shared': whole,
        'part': whole[1],
        'transposed': whole.t(),
        'half': torch.ones(2, dtype=torch.bfloat16),
        'count': torch.tensor(3),
        'parameter': torch.nn.Parameter(torch.ones(2)),
    }
    path = tmp_path / 'new' / f'a{suffix}'
    save_weights(tensors, path, META)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    found = read_checkpoint(str(path))['state_dict']
    assert found.keys() == tensors.keys()
    for key, value in tensors.items():
        assert found[key].dtype == value.dtype
        assert torch.equal(found[key], value)


def test_meta(tmp_path: Path) -> None:
    save_weights({'a': torch.zeros(1)}, tmp_path / 'a.pth', META)
    assert read_checkpoint(str(tmp_path / 'a.pth'))['meta'] == META
    save_weights({'a': torch.zeros(1)}, tmp_path / 'a.safetensors', META)
    expected = {'format': 'pt', 'source': 'a.pth', 'notes': '["one", "two"]'}
    assert read_checkpoint(str(tmp_path / 'a.safetensors'))['meta'] == expected


@pytest.mark.parametrize('name', ['a.bin', 'a', 'a.pth.txt'])
def test_other_endings(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r'ends in \.pth or \.safetensors'):
        save_weights({'a': torch.zeros(1)}, tmp_path / name, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ('name', 'function', 'error'),
    [
        ('a.pth', (torch, 'save'), RuntimeError('file write failed')),
        ('a.safetensors', (save, 'save_file'), SafetensorError('no space left')),
    ],
)
def test_failure_leaves_what_was_there(
    name: str,
    function: tuple[Any, str],
    error: Exception,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(content: Any, target: Path, *_: Any) -> None:
        target.write_bytes(b'half')
        raise error

    path = tmp_path / name
    path.write_bytes(b'old')
    monkeypatch.setattr(*function, fail)
    with pytest.raises(CheckpointError, match=f'{name}: cannot be written: {error}'):
        save_weights({'a': torch.zeros(1)}, path, {})
    assert path.read_bytes() == b'old'
    assert list(tmp_path.iterdir()) == [path]
