"""Runs the tests of `exact_resume.py` in a process of their own.

They fork, which a process may not do that has run networks before: its threads are gone in the
child.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).with_name('exact_resume.py')


@pytest.mark.slow
@pytest.mark.parametrize('kept', ['not soak', pytest.param('soak', marks=pytest.mark.soak)])
def test_in_a_process_of_its_own(kept: str) -> None:
    command = [sys.executable, '-m', 'pytest', str(TESTS), '-q', '-p', 'no:xdist', '-m', kept]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-5000:]
    assert ' passed' in done.stdout or ' skipped' in done.stdout
