"""Runs, as many at a time as there are places, one after the other in each."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import takewhile

import torch

from mmseg_kd.comparison.process import POLL_S, STOPPED, last_words, start, stop_requests
from mmseg_kd.runs.comparison import FAILED, LOG, RUNNING, Run


@dataclass
class _Place:
    """Where one run at a time has room: what its process finds in the environment."""

    environment: Mapping[str, str]
    run: Run | None = None
    process: subprocess.Popen[bytes] | None = None


@dataclass
class Outcome:
    """What became of runs.

    Attributes:
        failed: Ended with an error, or could not begin.
        stopped: Whether a signal came before the end: some may be left.
    """

    failed: list[Run] = field(default_factory=list)
    stopped: bool = False


def places(jobs: int | None, runs: int) -> list[dict[str, str]]:
    """What the processes of each place find in their environment.

    Args:
        jobs: How many places on each GPU, or on the CPU where there is none; None: one on each
            GPU, or as many as there are cores.
        runs: No more places than that.
    """
    if gpus := _gpus():
        found = [dict(CUDA_VISIBLE_DEVICES=name) for _ in range(jobs or 1) for name in gpus]
        return found[: max(runs, 1)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    count = max(min(jobs or cores or 1, runs), 1)
    threads = os.environ.get('OMP_NUM_THREADS') or str(max((cores or 1) // count, 1))
    return [dict(OMP_NUM_THREADS=threads)] * count


def _gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    count = torch.cuda.device_count()
    given = os.environ.get('CUDA_VISIBLE_DEVICES')
    if given is None or not count:
        return [str(index) for index in range(count)]
    names = [name.strip() for name in given.split(',')]
    # CUDA reads no further than the first that names none.
    names = list(takewhile(lambda name: name not in ('', '-1'), names))
    # Of MIG instances a process sees one, however many are named.
    return names if all(name.startswith('MIG-') for name in names) else names[:count]


def run_all(
    runs: Iterable[Run],
    places: Sequence[Mapping[str, str]],
    is_hopeless: Callable[[Run], bool] = lambda run: False,
) -> Outcome:
    """Train and test what has no result yet.

    Args:
        runs: With their configs in their folders; the next is asked for when a place is free.
        places: What the processes of each place find in their environment.
        is_hopeless: Looked at all the time for each that runs: whether to end it for good.
    """
    waiting = (run for run in runs if run.metrics() is None and not run.is_pruned)
    outcome = Outcome()
    here = [_Place(environment) for environment in places]
    is_over = False  # no run is waiting; one that is asked for after a stop would begin in vain
    with _none_left_alone(here), stop_requests() as asked:
        passed_on = 0
        while True:
            if len(asked) > passed_on:
                # The first is a request; one more ends them at once, as in a training alone.
                number = signal.SIGINT if passed_on else signal.SIGTERM
                passed_on = len(asked)
                for place in here:
                    if place.process is not None:
                        place.process.send_signal(number)
            for place in here:
                if place.process is not None and place.process.poll() is not None:
                    _end(place, outcome)
                while place.process is None and not (asked or is_over):
                    if (run := next(waiting, None)) is None:
                        is_over = True
                    else:
                        _begin(place, run, outcome)
                if place.process and place.run and not asked and is_hopeless(place.run):
                    place.process.send_signal(signal.SIGTERM)
            if not any(place.run for place in here):
                break
            time.sleep(POLL_S)
        outcome.stopped |= bool(asked) and not is_over
    return outcome


@contextmanager
def _none_left_alone(here: Sequence[_Place]) -> Iterator[None]:
    """Processes that an error inside leaves are told to stop, and waited for."""
    try:
        yield
    finally:
        left = [place.process for place in here if place.process is not None]
        for process in left:
            process.send_signal(signal.SIGTERM)
        for process in left:
            process.wait()


def _begin(place: _Place, run: Run, outcome: Outcome) -> None:
    """Start a run; where that cannot be, the place stays free."""
    seed = [] if run.seed is None else [str(run.seed)]
    command = ['run', str(run.config), str(run.folder), *seed]
    if not run.is_tested:
        command.append('--no-test')
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
        (run.folder / FAILED).unlink(missing_ok=True)
        (run.folder / RUNNING).touch()
        place.process = start(command, place.environment, run.folder / LOG)
    except OSError as error:
        _fail(run, f'before its begin: {error}', outcome)
        return
    place.run = run
    print(f'{run}: begins', flush=True)


def _end(place: _Place, outcome: Outcome) -> None:
    assert place.run is not None and place.process is not None
    run, status = place.run, place.process.returncode
    metrics = run.metrics()
    (run.folder / RUNNING).unlink(missing_ok=True)
    if metrics is not None:
        print(f'{run}: {run.metric} {metrics[run.metric]:.2f}', flush=True)
    elif status in STOPPED and run.is_pruned:
        print(f'{run}: pruned', flush=True)
    elif status in STOPPED:
        print(f'{run}: stopped, can be resumed', flush=True)
        outcome.stopped = True
    else:
        log = run.folder / LOG
        _fail(run, f'{_how(status)}: {last_words(log)}\n  {log}', outcome)
    assert place.process.stdin is not None
    place.process.stdin.close()
    place.run = place.process = None


def _fail(run: Run, why: str, outcome: Outcome) -> None:
    outcome.failed.append(run)
    with suppress(OSError):  # what it failed of, such as a full disk, may be in the way here too
        (run.folder / RUNNING).unlink(missing_ok=True)
        (run.folder / FAILED).touch()
    print(f'{run}: failed {why}', flush=True)


def _how(status: int) -> str:
    if status == -signal.SIGKILL:
        return '(killed, as by a machine whose memory is full)'
    return f'by {signal.Signals(-status).name}' if status < 0 else f'with exit code {status}'
