"""The end of a job of several ranks."""

from __future__ import annotations

import gc
import logging
import os
import sys

import torch
from mmengine.dist import barrier


def leave_together(code: int = 0) -> None:
    """Wait for the other ranks and end the process, where there are others.

    A rank that is gone earlier takes its connections along, and sometimes the store of all: what
    the others still do with them in the background, or while they take the process group down,
    would make a job that ended well a failed one. So that nothing is taken down: all that is to
    be kept is on the disk.

    Args:
        code: The exit code.
    """
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        gc.collect()  # ends the data loaders' workers
        barrier()
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
