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
from typing import Any

import pytest

IS_INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'


def patch_once() -> None:
    """Have the interpreter patch Triton's language for the first function of a module alone.

    It does so at each call of a function in a kernel, of which nothing is new, and takes back only
    what the kernel's launch has patched.
    """
    from triton.runtime import interpreter

    if not hasattr(interpreter, '_patch_lang'):
        return  # another Triton, which may well be faster
    call = interpreter.InterpretedFunction.__call__
    modules: set[str] = set()

    def call_in_a_kernel(self: Any, *args: Any, **kwargs: Any) -> Any:
        patch = interpreter._patch_lang
        if self.fn.__module__ in modules:
            interpreter._patch_lang = lambda fn: None
        modules.add(self.fn.__module__)
        try:
            return call(self, *args, **kwargs)
        finally:
            interpreter._patch_lang = patch

    interpreter.InterpretedFunction.__call__ = call_in_a_kernel


if IS_INTERPRETED:
    patch_once()


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
