"""The end of a job of several ranks."""

from __future__ import annotations

import torch
from mmengine.dist import barrier


def leave_together() -> None:
    """Wait for the other ranks and give the process group back.

    A rank that is gone earlier takes its connections along, and sometimes the store of all: what
    the others still do with them in the background would make a job that ended well a failed one.
    """
    if torch.distributed.is_initialized():
        barrier()
        torch.distributed.destroy_process_group()
