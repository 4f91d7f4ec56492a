"""The beginning and the end of a job of several ranks."""

from __future__ import annotations

import logging
import os
import sys
from datetime import timedelta

import torch
from mmengine.dist import barrier


def join_ranks(launcher: str) -> tuple[int, int]:
    """Meet the other ranks of a job that shares no tensors; returns its number, and of how many.

    Args:
        launcher: What started them, as mmengine calls it; 'none': this is the only one.
    """
    if launcher == 'none':
        return 0, 1
    # They wait for each other at the end alone, however much work each has.
    torch.distributed.init_process_group('gloo', timeout=timedelta(days=7))
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


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
