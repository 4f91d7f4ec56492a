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
from gpu import PARTS  # noqa: E402


def run(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(COMMAND), '--out', str(out), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


# A test for each, so that processes share them.
@pytest.mark.parametrize('name', [entry.name for entry in PARTS])
@pytest.mark.timeout(900)
def test_rehearsal(tmp_path: Path, name: str) -> None:
    done = run(tmp_path, '--rehearse', '--minutes', '12', '--only', name)
    assert done.returncode == 0, f'{done.stdout[-4000:]}\n{done.stderr[-2000:]}'
    found = json.loads((tmp_path / 'results.json').read_text(encoding='utf-8'))
    assert found['rehearsal']
    assert list(found['parts']) == [name]
    assert found['parts'][name]['status'] == 'ended'
    assert found['parts'][name]['records']
    assert '# CPU, a rehearsal' in (tmp_path / 'results.md').read_text(encoding='utf-8')


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 2
    assert '--rehearse' in done.stderr
