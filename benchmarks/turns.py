"""Several ways to do one thing, timed in turns, each in a process of its own or all in this one.

Turns keep what else the machine does from falling on one way alone; processes keep the peaks of
their memory apart, which a GPU's allocator does by itself.
"""

from __future__ import annotations

import gc
import itertools
import math
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
from torch.profiler import ProfilerActivity, profile

# Builds what is to be timed, in the process that runs it.
Factory = Callable[..., Callable[[], Any]]

# A turn in this process takes as many calls as fill this time, on a clock of a microsecond.
TURN_S = 0.02
LEAST_ROUNDS = 3


@dataclass(frozen=True)
class Measured:
    """The median of a way's seconds, and the MiB it needed above what was held before."""

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


def held_mib() -> float:
    """The memory held now, in MiB."""
    if torch.cuda.is_available():
        return torch.cuda.memory_allocated() / 2**20
    statm = Path('/proc/self/statm')
    if not statm.exists():  # only Linux has it
        return _peak()
    return int(statm.read_text().split()[1]) * resource.getpagesize() / 2**20


def allocated_mib(way: Callable[[], Any]) -> float:
    """The most that PyTorch's allocator for the CPU holds during a call, above what it held before.

    Counted, not sampled: to the byte the same each time. What other libraries take is not in it.
    """
    way()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as found:
        way()
    events = found.profiler.kineto_results.events()
    changes = (event.nbytes() for event in events if event.name() == '[memory]')
    return max(itertools.accumulate(changes, initial=0)) / 2**20


def _turn(way: Callable[[], Any], calls: int = 1) -> tuple[float, float]:
    """The seconds of a call, and the peak of memory."""
    if not torch.cuda.is_available():
        begun = time.perf_counter()
        for _ in range(calls):
            way()
        return (time.perf_counter() - begun) / calls, _peak()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    start.record()
    for _ in range(calls):
        way()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3 / calls, _peak()


def _serve(factory: Factory, args: tuple[Any, ...], threads: int, pipe: Connection) -> None:
    """Run a way each time that the other end asks, and answer with seconds and MiB."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    way = factory(*args)
    before = held_mib()
    while pipe.recv():
        seconds, peak = _turn(way)
        pipe.send((seconds, peak - before))


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


def measure_here(
    ways: Mapping[str, Callable[[], Any]], rounds: int, seconds: float = math.inf
) -> dict[str, Measured]:
    """Time several ways in turns in this process; two calls of each warm up.

    Args:
        ways: By name.
        rounds: How often each is timed.
        seconds: After these there are no more rounds, if there have been a few.

    Returns:
        What was measured; a way for which the GPU has no memory is left out.
    """
    begun = time.perf_counter()
    calls = {}
    for name, way in ways.items():
        if _turn_if_memory(way) and (turn := _turn_if_memory(way)):
            calls[name] = max(1, min(100, math.ceil(TURN_S / turn[0])))
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for done in range(rounds):
        if done >= LEAST_ROUNDS and time.perf_counter() - begun > seconds:
            break
        for name in tuple(found):
            before = held_mib()
            if turn := _turn_if_memory(ways[name], calls[name]):
                found[name].append((turn[0], turn[1] - before))
            else:
                del found[name]
    return {
        name: Measured(statistics.median(t for t, _ in turns), max(mib for _, mib in turns))
        for name, turns in found.items()
    }


def _turn_if_memory(way: Callable[[], Any], calls: int = 1) -> tuple[float, float] | None:
    try:
        return _turn(way, calls)
    except torch.cuda.OutOfMemoryError:
        pass
    # Only here is the traceback gone, with all that its frames held.
    free_memory()
    return None


def free_memory() -> None:
    """Give back what nobody holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
