"""torchrun for a training that is to be resumed, by itself or by a scheduler.

    python tools/launch.py [options of torchrun] tools/train.py CONFIG --launcher pytorch

torchrun itself, and besides:
- The ranks learn when the job began. Those that it starts again (--max-restarts) resume from the
  newest checkpoint that was written since.
- SIGUSR1, which schedulers send before they take a machine away, is passed on to the ranks.
- A job that was told to stop, and whose ranks then wrote their checkpoint, ends with 75 as they do.

It stands alone, so that the process that watches the ranks is a small one.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError


def main(args: Sequence[str] | None = None) -> int:
    """Run torchrun with `args` (None: the command line); returns the exit code."""
    os.environ['MMSEG_KD_JOB_START'] = str(time.time_ns())
    # torchrun's variable for its option --signals-to-handle, which it has since torch 2.8.
    os.environ.setdefault('PET_SIGNALS_TO_HANDLE', 'SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1')
    # Each start has a store of its own: in a shared one ranks find the addresses of the dead.
    os.environ['TORCH_DISABLE_SHARE_RDZV_TCP_STORE'] = '1'
    with tempfile.TemporaryDirectory() as folder:
        note = Path(folder, 'stopped')
        os.environ['MMSEG_KD_STOPPED'] = str(note)
        try:
            run.main(args)
        except (ChildFailedError, SignalException):
            if not note.exists():
                raise
            print('Stopped on request; go on with --resume.', file=sys.stderr)
            return os.EX_TEMPFAIL
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
