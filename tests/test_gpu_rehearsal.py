"""The command that asks a GPU everything, rehearsed: every part runs and finds nothing wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

COMMAND = Path(__file__).parents[1] / 'benchmarks/gpu.py'
sys.path.append(str(COMMAND.parent))
from gpu import PARTS, main  # noqa: E402


# A test for each, so that processes share them.
@pytest.mark.parametrize('name', [entry.name for entry in PARTS])
@pytest.mark.timeout(900)
def test_rehearsal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    arguments = ['--rehearse', '--minutes', '12', '--only', name]
    monkeypatch.setattr(sys, 'argv', [str(COMMAND), '--out', str(tmp_path), *arguments])
    # The part is in a process of its own.
    assert main() == 0, (tmp_path / 'log.txt').read_text(encoding='utf-8')[-4000:]
    found = json.loads((tmp_path / 'results.json').read_text(encoding='utf-8'))
    assert found['rehearsal']
    assert list(found['parts']) == [name]
    assert found['parts'][name]['status'] == 'ended'
    assert found['parts'][name]['records']
    assert '# CPU, a rehearsal' in (tmp_path / 'results.md').read_text(encoding='utf-8')


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    command = [sys.executable, str(COMMAND), '--out', str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert '--rehearse' in done.stderr
