"""Several ways to do one thing, timed in turns, each in a process of its own.

Turns keep what else the machine does from falling on one way alone; processes keep the peaks of
their memory apart.
"""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

# Builds what is to be timed, in the process that runs it.
Factory = Callable[..., Callable[[], Any]]


@dataclass(frozen=True)
class Measured:
    """The median of a way's seconds, and the MiB it needed above what its factory left."""

    seconds: float
    mib: float


def device_name() -> str:
    """The GPU's name, or 'CPU'."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else 'CPU'


def _peak() -> float:
    """The most memory held until now, in MiB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def _held() -> float:
    """The memory held now, in MiB."""
    if torch.cuda.is_available():
        return torch.cuda.memory_allocated() / 2**20
    statm = Path('/proc/self/statm')
    if not statm.exists():  # only Linux has it
        return _peak()
    return int(statm.read_text().split()[1]) * resource.getpagesize() / 2**20


def _serve(factory: Factory, args: tuple[Any, ...], threads: int, pipe: Connection) -> None:
    """Run a way each time that the other end asks, and answer with seconds and MiB."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    way = factory(*args)
    before = _held()
    while pipe.recv():
        begun = time.perf_counter()
        way()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        pipe.send((time.perf_counter() - begun, _peak() - before))


def measure(ways: Mapping[str, tuple[Any, ...]], rounds: int, threads: int) -> dict[str, Measured]:
    """Time several ways in turns; a first round only warms up.

    Args:
        ways: By name, a factory and its arguments; both must be picklable.
        rounds: How often each is timed.
        threads: Of each process; only one works at a time.
    """
    context = multiprocessing.get_context('spawn')
    pipes, workers = {}, []
    for name, (factory, *args) in ways.items():
        pipes[name], theirs = context.Pipe()
        worker = context.Process(
            target=_serve, args=(factory, tuple(args), threads, theirs), daemon=True
        )
        worker.start()
        workers.append(worker)
        theirs.close()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    peaks: dict[str, float] = {}
    for _ in range(rounds + 1):
        for name, pipe in pipes.items():
            pipe.send(True)
            try:
                once, peaks[name] = pipe.recv()
            except EOFError:
                raise SystemExit(f'{name}: its process died; was there memory enough?') from None
            seconds[name].append(once)
    for pipe, worker in zip(pipes.values(), workers, strict=True):
        pipe.send(False)
        worker.join()
    return {
        name: Measured(statistics.median(values[1:]), peaks[name])
        for name, values in seconds.items()
    }
