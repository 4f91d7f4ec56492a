"""Tests of Triton's kernels without a GPU, in its interpreter.

It has to be chosen before Triton is imported, so that a file's tests run once more, in a process of
their own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

IS_INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'


def run_in_interpreter(file: str) -> None:
    """Run the tests of a file there; those that are for it look at `IS_INTERPRETED`."""
    done = subprocess.run(
        [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '-x', file],
        cwd=Path(__file__).parents[1],
        env=os.environ | {'TRITON_INTERPRET': '1', 'CUDA_VISIBLE_DEVICES': ''},
        capture_output=True,
        text=True,
        check=False,
    )
    if 'only 0-dimensional arrays can be converted' in done.stdout:
        pytest.skip(f'the interpreter of Triton {version("triton")} is too old for this NumPy')
    assert done.returncode == 0, f'{done.stdout}\n{done.stderr}'
