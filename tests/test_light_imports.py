"""What a plain PyTorch project may import: rooms that bring nothing along and change nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# Rooms of the package that need torch and mmengine's registry, and nothing else.
ROOMS = [
    'mmseg_kd.losses',
    'mmseg_kd.schedules',
    'mmseg_kd.connectors',
    'mmseg_kd.networks',
    'mmseg_kd.networks.probe',
    'mmseg_kd.teacher',
]

# What is there before the import does what it does by itself.
LIGHT = """
import importlib, sys, warnings
import torch
import mmengine.registry

def state():
    return (
        list(warnings.filters),
        torch.load,
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.random.get_rng_state().tolist(),
        mmengine.registry.DefaultScope.check_instance_created('mmseg'),
        mmengine.registry.DefaultScope.get_current_instance(),
    )

modules, before = set(sys.modules), state()
importlib.import_module({room!r})
assert state() == before
own = {{*sys.stdlib_module_names, 'mmseg_kd', 'torch'}}
print(*sorted(n for n in set(sys.modules) - modules if n.partition('.')[0] not in own))
"""

NOTHING = """
import sys, warnings
modules, before = set(sys.modules), list(warnings.filters)
import mmseg_kd
assert warnings.filters == before
own = {*sys.stdlib_module_names, 'mmseg_kd'}
print(*sorted(n for n in set(sys.modules) - modules if n.partition('.')[0] not in own))
"""


def run(code: str) -> str:
    """What a fresh process prints."""
    done = subprocess.run(
        [sys.executable, '-c', code],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize('room', ROOMS)
def test_a_room_brings_nothing_along(room: str) -> None:
    assert run(LIGHT.format(room=room)) == ''


def test_the_package_itself_does_without_torch() -> None:
    assert run(NOTHING) == ''
