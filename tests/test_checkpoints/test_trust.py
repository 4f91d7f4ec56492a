"""Trust is given for a while, and reaches every torch.load of the process."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from builders import RunsCode

from mmseg_kd.checkpoints import checkpoint_trust
from mmseg_kd.checkpoints.trust import checkpoints_are_trusted

FORCE_DATA, FORCE_CODE = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD', 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'


@pytest.mark.parametrize('before', [None, '0', '1'])
@pytest.mark.parametrize('trusted', [True, False])
def test_all_is_as_before_afterwards(
    trusted: bool, before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (FORCE_DATA, FORCE_CODE):
        monkeypatch.delenv(name, raising=False)
        if before is not None:
            monkeypatch.setenv(name, before)
    environment = dict(os.environ)
    assert not checkpoints_are_trusted()
    with pytest.raises(KeyError), checkpoint_trust(trusted):
        assert checkpoints_are_trusted() is trusted
        raise KeyError
    assert not checkpoints_are_trusted()
    assert os.environ == environment


@pytest.mark.parametrize('forced', [None, FORCE_CODE, FORCE_DATA])
def test_the_rest_of_the_process_does_the_same(
    forced: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, target = tmp_path / 'a.pth', tmp_path / 'written'
    torch.save(dict(meta=RunsCode(open, str(target), 'w')), path)
    if forced is not None:
        monkeypatch.setenv(forced, '1')
    with checkpoint_trust(False), pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=False)
    assert not target.exists()
    with checkpoint_trust(True):
        torch.load(path, weights_only=False)
    assert target.exists()
