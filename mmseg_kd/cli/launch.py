"""Train or test on several GPUs, or CPU processes where there is no CUDA.

It is torchrun, and besides:

- The ranks learn when the job began. Those that it starts again (--max-restarts) resume from the
  newest checkpoint that was written since.
- SIGUSR1, which schedulers send before they take a machine away, is passed on to the ranks.
- A job that was told to stop, and whose ranks then wrote their checkpoint, ends with 75 as they do.

The process that watches the ranks imports torch.distributed alone, so that it is a small one.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path


def torchrun(args: Sequence[str]) -> int:
    """Run torchrun with `args`; returns the exit code."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='mmseg-kd launch',
        usage='%(prog)s [--max-restarts N] [--NAME=VALUE ...] GPUS COMMAND ...',
        description='Train or test on several GPUs, or CPU processes where there is no CUDA,\n'
        'on one machine or many.',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='Several machines: set NNODES, NODE_RANK and MASTER_ADDR on each, and PORT on all\n'
        'alike. Other options of torchrun are taken before GPUS, as --NAME=VALUE. For\n'
        'restarts on several machines these are --rdzv-backend=c10d and\n'
        '--rdzv-endpoint=MASTER_ADDR:PORT.\n\n'
        'example: mmseg-kd launch --max-restarts 3 8 train CONFIG --resume\n\n'
        'exit codes: 0 done, 1 a rank ended with an error, 2 wrong arguments, 75 stopped\n'
        'on a signal, go on with --resume',
    )
    parser.add_argument(
        '--max-restarts',
        type=int,
        metavar='N',
        help='start all ranks again, up to N times, when one dies; they resume by themselves',
    )
    parser.add_argument(
        '--standalone', action='store_true', help='on one machine, at any port that is free'
    )
    parser.add_argument('gpus', metavar='GPUS', help='of this machine; auto: all')
    parser.add_argument(
        'command', choices=['train', 'test', 'pseudo-label'], help='what the ranks do'
    )
    parser.add_argument(
        'arguments', nargs=argparse.REMAINDER, metavar='...', help='the arguments of the command'
    )
    return parser


def parse(args: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The command's own arguments (`args` None: the command line), and options of torchrun."""
    parser = _parser()
    parsed, theirs = parser.parse_known_args(args)
    for option in theirs:
        if not re.match('--[^=]+=', option):
            parser.error(f'{option}: expected options of torchrun as --NAME=VALUE, before GPUS')
    is_number = parsed.gpus.isdecimal() and int(parsed.gpus) >= 1
    if not (is_number or parsed.gpus in ('auto', 'gpu', 'cpu')) or (parsed.max_restarts or 0) < 0:
        parser.error('expected GPUS >= 1 and --max-restarts >= 0')
    if not parsed.arguments:
        parser.error(f'expected the arguments of {parsed.command}, got none')
    return parsed, theirs


def options_of(args: argparse.Namespace, theirs: Sequence[str] = ()) -> list[str]:
    """The command line of torchrun; where the machines are found is in the environment.

    Args:
        args: What `parse` gives.
        theirs: Options of torchrun, which come last and so have the say.
    """
    address, port = _variable('MASTER_ADDR', '127.0.0.1'), _variable('PORT', '29500')
    machines = _variable('NNODES', '1')
    if machines == '1':
        # The other rendezvous, static, has one store for all starts, where ranks that are started
        # again find the addresses of those that died.
        meeting = ['--rdzv-backend=c10d', f'--rdzv-endpoint={address}:{port}']
        meeting.append(f'--local-addr={address}')
    else:
        meeting = [f'--nnodes={machines}', f'--master_addr={address}']
        meeting += [f'--node_rank={_variable("NODE_RANK", "0")}', f'--master_port={port}']
    ranks = [f'--nproc_per_node={args.gpus}']
    if args.max_restarts is not None:
        ranks.append(f'--max-restarts={args.max_restarts}')
    if args.standalone:
        ranks.append('--standalone')
    work = ['-m', 'mmseg_kd', args.command, *args.arguments, '--launcher', 'pytorch']
    return [*meeting, *ranks, *theirs, *work]


def _variable(name: str, default: str) -> str:
    """A variable of the environment; an empty one counts as none, as in shells."""
    return os.environ.get(name) or default


def main(args: Sequence[str] | None = None) -> int:
    """Parse `args` (None: the command line) and launch; returns the exit code."""
    parsed, theirs = parse(args)
    # torchrun's own default, set here so that it does not warn of it.
    os.environ['OMP_NUM_THREADS'] = _variable('OMP_NUM_THREADS', '1')
    return torchrun(options_of(parsed, theirs))
