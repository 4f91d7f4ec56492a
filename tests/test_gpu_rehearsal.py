"""The command that asks a GPU everything, rehearsed: every part runs and finds nothing wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
COMMAND = ROOT / 'benchmarks/gpu.py'


def run(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(COMMAND), '--out', str(out), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.timeout(900)
def test_rehearsal(tmp_path: Path) -> None:
    done = run(tmp_path, '--rehearse', '--minutes', '12')
    assert done.returncode == 0, f'{done.stdout[-4000:]}\n{done.stderr[-2000:]}'
    found = json.loads((tmp_path / 'results.json').read_text(encoding='utf-8'))
    assert found['rehearsal']
    assert list(found['parts']) == names()
    for name, part in found['parts'].items():
        assert part['status'] == 'ended', name
        assert part['records'], name
    assert '# CPU, a rehearsal' in (tmp_path / 'results.md').read_text(encoding='utf-8')


def names() -> list[str]:
    """Of the parts, as the command's help tells them."""
    text = subprocess.run(
        [sys.executable, str(COMMAND), '--help'], capture_output=True, text=True, check=True
    ).stdout
    listed = text.rpartition('PART ...]')[2].rpartition('--rehearse')[0]
    return [name.strip() for name in ' '.join(listed.split()).split(',')]


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 2
    assert '--rehearse' in done.stderr
