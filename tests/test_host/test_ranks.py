"""Ranks that slurm or Open MPI has started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmseg_kd.errors import DeviceError
from mmseg_kd.host.ranks import name_rank

MEET = """
import sys
import torch
from mmseg_kd.host.ranks import join_ranks
rank, ranks = join_ranks(sys.argv[1])
number = torch.tensor([rank + 1])
torch.distributed.all_reduce(number)
print(rank, ranks, number.item())
"""


def environment(launcher: str, rank: int) -> dict[str, str]:
    """What a launcher of two ranks on one host sets."""
    if launcher == 'slurm':
        found = dict(SLURM_PROCID=rank, SLURM_NTASKS=2, SLURM_LOCALID=rank, SLURM_NODELIST='a[3-4]')
    else:
        names = dict(RANK=rank, SIZE=2, LOCAL_RANK=rank, LOCAL_SIZE=2)
        found = {f'OMPI_COMM_WORLD_{name}': value for name, value in names.items()}
    return {name: str(value) for name, value in found.items()}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """No job's environment, before and after."""
    for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT'):
        monkeypatch.setenv(name, '')  # what a test sets is taken back
        monkeypatch.delenv(name)


@pytest.mark.parametrize('launcher', ['slurm', 'mpi'])
def test_two_ranks_meet(launcher: str, tmp_path: Path) -> None:
    scontrol = tmp_path / 'scontrol'
    scontrol.write_text(
        '#!/bin/sh\n[ "$*" = "show hostnames a[3-4]" ] && echo localhost && echo a4\n'
    )
    scontrol.chmod(0o755)
    port = 29500 + os.getpid() % 2000
    path = f'{tmp_path}{os.pathsep}{os.environ["PATH"]}'
    processes = [
        subprocess.Popen(
            [sys.executable, '-c', MEET, launcher],
            env={
                **os.environ,
                **environment(launcher, rank),
                'MASTER_PORT': str(port),
                'PATH': path,
            },
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    assert [process.communicate(timeout=120)[0] for process in processes] == ['0 2 3\n', '1 2 3\n']


@pytest.mark.parametrize(
    ('launcher', 'missing', 'message'),
    [
        ('slurm', 'SLURM_PROCID', 'expected SLURM_PROCID in the environment; .* with srun'),
        ('mpi', 'OMPI_COMM_WORLD_RANK', 'expected OMPI_COMM_WORLD_RANK .* with mpirun'),
        ('slurm', 'SLURM_NODELIST', '--launcher slurm: expected MASTER_ADDR'),
        ('mpi', 'OMPI_COMM_WORLD_LOCAL_SIZE', '--launcher mpi: expected MASTER_ADDR'),
    ],
)
def test_what_is_missing_is_named(
    launcher: str, missing: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(launcher, 1).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(missing)
    with pytest.raises(DeviceError, match=message):
        name_rank(launcher)


def test_ranks_of_torchrun_have_all_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    before = dict(os.environ)
    name_rank('pytorch')
    assert dict(os.environ) == before
