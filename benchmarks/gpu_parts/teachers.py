"""What a teacher's options bring, one by one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import torch._dynamo
from teacher import MODES, NETWORKS, OPTIONS, make_lean, make_mode
from turns import free_memory

from gpu_parts.part import Part
from gpu_parts.timing import has_time, measured, prepare, wait

COMPILE = 'compile=True'
# For a rehearsal.
SMALL: dict[str, dict[str, Any]] = {
    'segformer-b3': {'model.backbone.num_layers': [1, 1, 1, 1]},
    'pspnet-r50': {
        'model.backbone.depth': 18,
        'model.decode_head.in_channels': 512,
        'model.decode_head.channels': 32,
        'model.auxiliary_head.in_channels': 256,
    },
}
# How long a network's options may be timed.
NETWORK_S = 5.0
# What compiling a network takes.
COMPILE_S = {'pspnet-r50': 25, 'segformer-b3': 45}


def run(part: Part) -> None:
    prepare(part)
    batch, size = (1, 64) if part.rehearse else (8, 512)
    lean: dict[str, Callable[[], Any]] = {}
    networks: dict[str, dict[str, Any]] = {
        name: dict(config=config, cfg_options=SMALL[name] if part.rehearse else {})
        for name, config in NETWORKS.items()
    }
    for name, network in networks.items():
        if not has_time(part, 20, name):
            continue
        ways: dict[str, Callable[[], Any]] = {}
        for way in (*OPTIONS, *MODES):
            if way == COMPILE:
                continue
            with part.check(f'{name}: {way} runs'):
                ways[way] = (
                    make_mode(MODES[way], network, batch, size)
                    if way in MODES
                    else make_lean({**network, **OPTIONS[way]}, batch, size)
                )
        with part.check(f'{name}: times'):
            tell(part, name, ways)
            lean[name] = ways['lean']
        del ways
        free_memory()
    for name in sorted(lean, key=lambda one: COMPILE_S[one]):
        if has_time(part, COMPILE_S[name], f'{name}: {COMPILE}'):
            with part.check(f'{name}: {COMPILE}') as told:
                torch._dynamo.reset()
                options: dict[str, Any] = OPTIONS[COMPILE]
                if part.rehearse:
                    options = dict(compile=dict(backend='eager'))
                compiled = make_lean({**networks[name], **options}, batch, size)
                begun = time.perf_counter()
                compiled()
                wait(part)
                compilation = compiled.teacher._compiled
                assert compilation is not None and compilation._compiled, 'torch.compile failed'
                told['seconds to compile'] = round(time.perf_counter() - begun, 1)
                tell(part, name, {'lean': lean[name], COMPILE: compiled})
                del compiled
            free_memory()


def tell(part: Part, name: str, ways: dict[str, Callable[[], Any]]) -> None:
    """Time forward passes in turns, a row each."""
    found = measured(part, ways, NETWORK_S)
    for way, one in found.items():
        ratio = one.seconds / found['lean'].seconds
        part.row(
            'teachers',
            network=name,
            way=way,
            **{'ms': one.seconds * 1e3, '/ lean': ratio, 'MiB': one.mib},
        )
