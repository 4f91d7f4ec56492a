"""The end of a job of several ranks."""

from __future__ import annotations

import logging
import os
import sys

import torch
from mmengine.dist import barrier


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
