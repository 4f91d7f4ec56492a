"""Time and memory of a whole training step: ours, its floor, and as it is usually done."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from step import CONFIG, WAYS, Stepper
from turns import Measured, free_memory, held_mib

from gpu_parts.part import Part
from gpu_parts.timing import figures, has_time, measured, prepare

SWIN = 'distillation_configs/ade20k/segformer-b3_swin-t.py::cgd'
SWIN_B = 'mmseg::swin/swin-base-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py'


@dataclass(frozen=True)
class Pair:
    """A teacher and a student."""

    name: str
    config: str
    options: dict[str, Any] = field(default_factory=dict)


B3_B0 = Pair('SegFormer-B3 teaches B0', CONFIG)
SWINS = Pair('Swin-B teaches Swin-T', SWIN, {'model.teacher.config': SWIN_B})

# The most important first: pair, precision, images.
ROWS = (
    *((B3_B0, precision, batch) for precision, batch in (('fp32', 2), ('fp32', 8), ('bf16', 8))),
    *((SWINS, precision, batch) for precision, batch in (('fp32', 2), ('fp32', 8), ('bf16', 8))),
    *((B3_B0, precision, batch) for precision, batch in (('tf32', 8), ('bf16', 2), ('bf16', 16))),
    *((SWINS, precision, batch) for precision, batch in (('tf32', 8), ('bf16', 2), ('bf16', 16))),
    *((B3_B0, precision, batch) for precision, batch in (('tf32', 2), ('fp32', 16), ('tf32', 16))),
    *((SWINS, precision, batch) for precision, batch in (('tf32', 2), ('fp32', 16), ('tf32', 16))),
)

# How long a row may be timed.
ROW_S = 3.0


def run(part: Part) -> None:
    prepare(part)
    # The libraries' own buffers are not the first way's.
    x = torch.ones(64, 64, device=part.device, requires_grad=True)
    (x @ x).sum().backward()
    steppers: dict[str, dict[str, tuple[Stepper, float]]] = {}
    rows = ROWS
    size = 512
    if part.rehearse:
        size = 64
        pair, swins = small(B3_B0, SMALL_SEGFORMER), small(SWINS, SMALL_SWIN)
        rows = ((pair, 'tf32', 2), (pair, 'bf16', 2), (swins, 'fp32', 2))
    for pair, precision, batch in rows:
        name = f'{pair.name}, {precision}, {batch}x{size}x{size}'
        if not has_time(part, 10 if pair.name in steppers else 25, name):
            continue
        with part.check(f'step of {name}'):
            if pair.name not in steppers:
                steppers[pair.name] = build(pair)
            found = time_steps(part, steppers[pair.name], precision, batch, size)
            told = figures(found, WAYS, 'ours')
            part.row('whole steps', networks=pair.name, precision=precision, images=batch, **told)
        free_memory()


# For a rehearsal.
SMALL_SEGFORMER = {'model.backbone.num_layers': [1, 1, 1, 1]}
SMALL_SWIN = {
    'model.backbone.embed_dims': 12,
    'model.backbone.depths': [1, 1, 1, 1],
    'model.backbone.num_heads': [1, 2, 4, 8],
    'model.decode_head.in_channels': [12, 24, 48, 96],
    'model.decode_head.channels': 16,
    'model.auxiliary_head.in_channels': 48,
    'model.auxiliary_head.channels': 16,
}


def small(pair: Pair, changes: dict[str, Any]) -> Pair:
    """The pair with smaller networks."""
    options = {f'model.{side}.cfg_options': changes for side in ('teacher', 'student')}
    return replace(pair, options=pair.options | options)


def build(pair: Pair) -> dict[str, tuple[Stepper, float]]:
    """The ways of a pair, each with the MiB that it holds between its steps."""
    built = {}
    for way in WAYS:
        before = held_mib()
        stepper = Stepper(way, pair.config, pair.options)
        stepper.on_batch(2, (64, 64))()  # makes the optimiser's state
        free_memory()
        built[way] = stepper, held_mib() - before
    return built


def time_steps(
    part: Part,
    steppers: dict[str, tuple[Stepper, float]],
    precision: str,
    batch: int,
    size: int,
) -> dict[str, Measured]:
    """A step in every way; memory with all that a way holds."""
    torch.backends.cuda.matmul.allow_tf32 = precision == 'tf32'
    torch.backends.cudnn.allow_tf32 = precision == 'tf32'
    ways = {
        way: stepper.on_batch(batch, (size, size), autocast=precision == 'bf16')
        for way, (stepper, _) in steppers.items()
    }
    found = measured(part, ways, ROW_S)
    return {way: replace(one, mib=one.mib + steppers[way][1]) for way, one in found.items()}
