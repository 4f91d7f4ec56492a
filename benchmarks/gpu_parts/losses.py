"""Time and memory of the losses, forward and backward, against the plain formulas and the GPU."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch._dynamo
import torch._inductor.config
from losses import WAYS, Case, make, make_step
from turns import free_memory

from gpu_parts.part import NotHereError, Part
from gpu_parts.timing import figures, has_time, measured, prepare, wait

LOSSES = ('KL', 'CD', 'CGD', 'CE')

# The most important first; the later ones let one size grow at a time.
CASES = (
    *(Case(loss) for loss in LOSSES),
    *(Case(loss, batch=16) for loss in LOSSES),
    *(Case('CGD', 2, 150, native, native * 4) for native in (64, 256, 512)),
    *(Case('CGD', 1, 19, 64, output) for output in (256, 512, 1024, 2048)),
    Case('KL', 1, 19, 64, 2048),
    *(Case('CGD', 1, classes) for classes in (19, 150, 847)),
    Case('KL', 1, 847),
    *(Case('CGD', batch, 19) for batch in (4, 16)),
    Case('CGD', 16, 847),
)
TINY = (*(Case(loss, 1, 12, 4, 16) for loss in LOSSES), Case('CGD', 2, 19, 5, 17))

# How long a case may be timed.
CASE_S = 2.0


@dataclass(frozen=True)
class Ceilings:
    """What the GPU can do at most: bytes and exponentials a second."""

    bytes_s: float | None = None
    exponentials_s: float | None = None

    def shares(self, case: Case, seconds: float) -> dict[str, float]:
        """Of the bytes that a loss must move and of the exponentials that it must take."""
        native = case.batch * case.classes * case.native**2
        pixels = case.batch * case.output**2
        told: dict[str, float] = {}
        if case.loss == 'CE':
            # Scores and labels are read in each of two passes, and the gradient is written.
            needed, exponentials = 4 * 3 * native + 16 * pixels, 2 * case.classes * pixels
        else:
            # Both maps are read in each pass, and the gradient is written.
            passes = 2 if case.loss == 'KL' else 1
            needed = 4 * (2 * passes + 1) * native
            exponentials = 2 * passes * case.classes * pixels
        told['MB to move'] = needed / 1e6
        if self.bytes_s is not None:
            told['of the rate of copies'] = needed / seconds / self.bytes_s
        if self.exponentials_s is not None:
            told['of the rate of exponentials'] = exponentials / seconds / self.exponentials_s
        return told


def run(part: Part) -> None:
    prepare(part)
    # So that the first call builds the kernels, whatever ran before.
    os.environ['TRITON_CACHE_DIR'] = str(part.scratch / 'triton')
    os.environ['TORCHINDUCTOR_CACHE_DIR'] = str(part.scratch / 'inductor')
    ceilings = find_ceilings(part)
    find_backend(part)
    cases = TINY if part.rehearse else CASES
    time_cases(part, cases[: len(LOSSES)], ceilings)
    compile_cases(part, [case for case in cases[: len(LOSSES)] if case.loss in ('KL', 'CGD')])
    time_cases(part, cases[len(LOSSES) :], ceilings)
    compile_cases(part, [case for case in cases[: len(LOSSES)] if case.loss in ('CE', 'CD')])


def find_ceilings(part: Part) -> Ceilings:
    """Measure what bounds any kernel on this GPU."""
    found: dict[str, float] = {}
    with part.check('rate of copies in the memory of the GPU') as told:
        values = 2**16 if part.rehearse else 2**28
        source = torch.ones(values, device=part.device)
        target = torch.empty_like(source)
        seconds = measured(part, {'copy': lambda: target.copy_(source)}, 1)['copy'].seconds
        found['bytes_s'] = 2 * 4 * values / seconds
        told['GB/s, read and written'] = found['bytes_s'] / 1e9
    with part.check('rate of exponentials in float32') as told:
        try:
            from gpu_parts.exponentials import exponentials
        except ImportError as error:
            raise NotHereError(str(error)) from error
        values, steps = (2**11, 4) if part.rehearse else (2**24, 256)
        x = torch.rand(values, device=part.device)
        seconds = measured(part, {'exp': lambda: exponentials(x, steps)}, 1)['exp'].seconds
        found['exponentials_s'] = values * steps / seconds
        told['G/s'] = found['exponentials_s'] / 1e9
    free_memory()
    return Ceilings(**found)


def find_backend(part: Part) -> None:
    """Tell which backend `ours` is, and how long its first call takes."""
    with part.check("the losses' kernels are taken") as told:
        case = Case('CGD', 1, 12, 8, 32)
        begun = time.perf_counter()
        make(case, 'ours')()
        wait(part)
        told['seconds of the first call'] = round(time.perf_counter() - begun, 2)
        if part.rehearse:
            raise NotHereError('a CPU takes the pieces')
        from mmseg_kd.losses.kernels.triton_divergence import can_take

        x = torch.zeros(1, 2, 3, 3, device=part.device)
        assert can_take(x, x), 'the pieces are taken'


def case_figures(case: Case) -> dict[str, Any]:
    """The first columns of a row."""
    maps = f'{case.batch}x{case.classes}x{case.native}x{case.native}'
    return dict(loss=case.loss, maps=maps, size=case.output)


def time_cases(part: Part, cases: Iterable[Case], ceilings: Ceilings) -> None:
    """A row each: every way of a loss in turns."""
    for case in cases:
        if not has_time(part, 6, str(case)):
            continue
        with part.check(f'time of {case}'):
            found = measured(part, {way: make(case, way) for way in WAYS}, CASE_S)
            told = case_figures(case) | figures(found, WAYS, 'ours')
            if 'ours' in found:
                told |= ceilings.shares(case, found['ours'].seconds)
            part.row('losses, forward and backward', **told)
        free_memory()


def compile_cases(part: Part, cases: Iterable[Case]) -> None:
    """A row each: ours and the plain formula as torch.compile makes it."""
    # A pool of compilers takes longer to start than these few kernels to build.
    torch._inductor.config.compile_threads = 1
    backend = 'eager' if part.rehearse else 'inductor'
    for case in cases:
        if not has_time(part, 15, f'torch.compile of {case}'):
            continue
        with part.check(f'torch.compile of {case}'):
            torch._dynamo.reset()
            plain = WAYS['plain'][case.loss]
            compiled = make_step(case, torch.compile(plain, backend=backend, dynamic=False))
            begun = time.perf_counter()
            compiled()
            wait(part)
            seconds = time.perf_counter() - begun
            ways = {'ours': make(case, 'ours'), 'compiled': compiled}
            told = case_figures(case) | figures(measured(part, ways, CASE_S), ways, 'ours')
            told['seconds to compile'] = seconds
            part.row('losses against torch.compile of the plain formula', **told)
        free_memory()
