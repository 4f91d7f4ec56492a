"""The beginning and the end of a job of several ranks."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from contextlib import suppress
from datetime import timedelta

import torch
from mmengine.dist import barrier

from mmseg_kd.errors import DeviceError


def join_ranks(launcher: str) -> tuple[int, int]:
    """Meet the other ranks of a job that shares no tensors; returns its number, and of how many.

    Args:
        launcher: What started them, as mmengine calls it; 'none': this is the only one.

    Raises:
        DeviceError: As `name_rank`.
    """
    if launcher == 'none':
        return 0, 1
    name_rank(launcher)
    # They wait for each other at the end alone, however much work each has.
    torch.distributed.init_process_group('gloo', timeout=timedelta(days=7))
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


# What slurm and Open MPI call what torch.distributed asks for.
_NAMES = {
    'slurm': dict(RANK='SLURM_PROCID', WORLD_SIZE='SLURM_NTASKS', LOCAL_RANK='SLURM_LOCALID'),
    'mpi': dict(
        RANK='OMPI_COMM_WORLD_RANK',
        WORLD_SIZE='OMPI_COMM_WORLD_SIZE',
        LOCAL_RANK='OMPI_COMM_WORLD_LOCAL_RANK',
    ),
}


def name_rank(launcher: str) -> None:
    """Put into the environment which rank this is and where the first one listens.

    mmengine does so for ranks that have a GPU each. torchrun has done it already.

    Args:
        launcher: 'pytorch', 'slurm' or 'mpi'.

    Raises:
        DeviceError: The launcher has not started this process, or does not say where the first is.
    """
    if launcher not in _NAMES:
        return
    for name, theirs in _NAMES[launcher].items():
        if theirs not in os.environ:
            command = 'srun' if launcher == 'slurm' else 'mpirun'
            raise DeviceError(
                f'--launcher {launcher}: expected {theirs} in the environment; start the ranks '
                f'with {command}.'
            )
        os.environ[name] = os.environ[theirs]
    os.environ.setdefault('MASTER_PORT', '29500')
    if 'MASTER_ADDR' not in os.environ:
        os.environ['MASTER_ADDR'] = _first_host(launcher)


def _first_host(launcher: str) -> str:
    with suppress(OSError, KeyError, IndexError):
        if launcher == 'slurm':
            command = ['scontrol', 'show', 'hostnames', os.environ['SLURM_NODELIST']]
            return subprocess.run(command, capture_output=True, text=True).stdout.split()[0]
        if os.environ['OMPI_COMM_WORLD_LOCAL_SIZE'] == os.environ['WORLD_SIZE']:
            return '127.0.0.1'
    raise DeviceError(
        f'--launcher {launcher}: expected MASTER_ADDR in the environment, the name of the host of '
        'the first rank.'
    )


def exit_all_ranks(code: int = 0) -> None:
    """Wait for the other ranks and end the process; a process without others goes on.

    A rank that is gone takes its connections along, and sometimes the store of all. What the
    others then still do with them in the background, or while they take the process group down,
    would make a failed job of one that ended well. So the process ends at once, with nothing taken
    down: all that is to be kept is on the disk.

    Args:
        code: The exit code, where there are other ranks.
    """
    if not torch.distributed.is_initialized():
        return
    if torch.distributed.get_world_size() == 1:
        torch.distributed.destroy_process_group()
        return
    barrier()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
