"""All runs of a plan, as many at a time as there are places for, one after the other in each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from mmseg_kd.comparison.plan import Plan
from mmseg_kd.comparison.run import Run

LOG = 'run.log'
# How often the processes are looked at.
_POLL_S = 0.5


@dataclass
class _Place:
    """Where one run at a time has room: what its process finds in the environment."""

    environment: Mapping[str, str]
    run: Run | None = None
    process: subprocess.Popen[bytes] | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a comparison's runs.

    Attributes:
        done: With a result.
        failed: Ended with an error; the log in their folder says which.
        stopped: Whether a signal ended the comparison, which can be resumed.
    """

    done: Sequence[Run]
    failed: Sequence[Run]
    stopped: bool


def runs_of(plan: Plan, folder: Path) -> list[Run]:
    """The teacher's test and the runs: of each seed all methods, so that seeds end one by one."""
    has_teacher = bool(plan.methods[plan.baseline].model.get('teacher'))
    teacher = [Run('teacher', None, folder / 'teacher')] if has_teacher else []
    return teacher + [
        Run(method, seed, folder / method / f'seed{seed}')
        for seed in plan.seeds
        for method in plan.methods
    ]


def places(jobs: int) -> list[dict[str, str]]:
    """A place for each of `jobs` runs at a time on each GPU, or on the CPU where there is none."""
    gpus = torch.cuda.device_count()
    if not gpus:
        threads = str(max((os.cpu_count() or 1) // jobs, 1))
        return [dict(OMP_NUM_THREADS=threads)] * jobs
    return [dict(CUDA_VISIBLE_DEVICES=str(gpu)) for _ in range(jobs) for gpu in range(gpus)]


def run_all(
    plan: Plan, folder: Path, places: Sequence[Mapping[str, str]], amp: bool = False
) -> Outcome:
    """Train and test what has no result yet.

    Args:
        plan: What is compared.
        folder: For the runs, METHOD/seedN each.
        places: What the processes of each place find in their environment.
        amp: Mixed precision.
    """
    runs = runs_of(plan, folder)
    for run in runs:
        _write_config(plan.methods[plan.baseline if run.seed is None else run.method], run)
    waiting = [run for run in runs if run.metrics() is None]
    failed: list[Run] = []
    here = [_Place(environment) for environment in places]
    with _stop_requests() as stopped:
        passed_on = 0
        while waiting or any(place.run for place in here):
            if len(stopped) > passed_on:
                passed_on = len(stopped)
                waiting.clear()
                for place in here:
                    if place.process is not None:
                        place.process.send_signal(signal.SIGTERM)
            for place in here:
                if place.process is not None and place.process.poll() is not None:
                    _end(place, failed, stopped)
                if place.process is None and waiting:
                    _begin(place, waiting.pop(0), amp)
            time.sleep(_POLL_S)
    done = [run for run in runs if run.metrics() is not None]
    return Outcome(done, failed, bool(stopped))


def _write_config(cfg: Config, run: Run) -> None:
    run.folder.mkdir(parents=True, exist_ok=True)
    if not run.config.exists():
        cfg.dump(run.config)


def _begin(place: _Place, run: Run, amp: bool) -> None:
    command = [sys.executable, '-m', 'mmseg_kd.comparison.run', str(run.folder)]
    if run.seed is not None:
        command.append(str(run.seed))
    if amp:
        command.append('--amp')
    print(f'{run}: begins', flush=True)
    with (run.folder / LOG).open('ab') as log:
        place.process = subprocess.Popen(
            command,
            env={**os.environ, **place.environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # Ctrl-C comes to this process alone, which passes it on.
            start_new_session=True,
        )
    place.run = run


def _end(place: _Place, failed: list[Run], stopped: Sequence[Any]) -> None:
    assert place.run is not None and place.process is not None
    run, status = place.run, place.process.returncode
    metrics = run.metrics()
    if status == 0 and metrics is not None:
        print(f'{run}: mIoU {metrics["mIoU"]:.2f}', flush=True)
    elif stopped and status in (os.EX_TEMPFAIL, -signal.SIGTERM):
        print(f'{run}: stopped, can be resumed', flush=True)
    else:
        print(f'{run}: failed with exit code {status}; see {run.folder / LOG}', flush=True)
        failed.append(run)
    place.run = place.process = None


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """A list that is no longer empty once a signal has asked to stop."""
    asked: list[int] = []
    kinds = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {kind: signal.signal(kind, lambda number, _: asked.append(number)) for kind in kinds}
    try:
        yield asked
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
