"""What the parts about speed have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from turns import Measured, measure_here

from gpu_parts.part import Part

NO_MEMORY = 'no memory'


def prepare(part: Part) -> None:
    """Convolutions are chosen by trying them, as mmseg's runs have it."""
    torch.backends.cudnn.benchmark = True
    if part.rehearse:
        # On tensors this small threads cost more than they bring.
        torch.set_num_threads(1)


def has_time(part: Part, seconds: float, what: str) -> bool:
    """Whether so many seconds of a GPU are left; where not, a note tells what is left out."""
    if part.rehearse or part.seconds_left >= seconds:
        return True
    part.note(f'left out, no time: {what}')
    return False


def measured(
    part: Part, ways: Mapping[str, Callable[[], Any]], seconds: float
) -> dict[str, Measured]:
    """The ways in turns for about so many seconds; once in a rehearsal."""
    return measure_here(ways, rounds=1 if part.rehearse else 15, seconds=seconds)


def wait(part: Part) -> None:
    """Until the GPU has done all that it was given."""
    if part.device == 'cuda':
        torch.cuda.synchronize()


def figures(
    found: Mapping[str, Measured], ways: Iterable[str], ours: str, memory: bool = True
) -> dict[str, Any]:
    """Times, peaks, and ours by each of the others; 'no memory' for ways that are not found."""
    ways = tuple(ways)
    told: dict[str, Any] = {
        f'{way} ms': found[way].seconds * 1e3 if way in found else NO_MEMORY for way in ways
    }
    for way in ways:
        if way != ours and {way, ours} <= found.keys():
            told[f'{ours} / {way}'] = found[ours].seconds / found[way].seconds
    if memory:
        told |= {f'{way} MiB': found[way].mib for way in ways if way in found}
        for way in ways:
            if way != ours and {way, ours} <= found.keys() and found[way].mib > 0:
                told[f'MiB, {ours} / {way}'] = found[ours].mib / found[way].mib
    return told
