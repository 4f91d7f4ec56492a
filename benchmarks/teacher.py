"""What a teacher costs: a forward pass to its class scores, with each option on its own.

    python benchmarks/teacher.py [--network pspnet-r50] [--batch 2] [--size 512] [--json t.json]

| way | what it does |
| --- | --- |
| loss mode | mmseg's network with its heads' losses, as a teacher is often run |
| tensor mode | mmseg's network without the losses |
| lean | the teacher of a distillation with its default options; the others change one |

Weights are random: they change nothing in the work. Each way runs in a process of its own, in turns
with the others.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mmseg
import torch
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor
from turns import device_name, measure

import mmseg_kd.register
from mmseg_kd.config.network_spec import parse_network
from mmseg_kd.config.teacher_options import TeacherOptions
from mmseg_kd.networks.build import build_network, without_initialisation
from mmseg_kd.teacher import Teacher

NETWORKS = {
    'segformer-b3': 'mmseg::segformer/segformer_mit-b3_8xb2-160k_ade20k-512x512.py',
    'pspnet-r50': 'mmseg::pspnet/pspnet_r50-d8_4xb4-160k_ade20k-512x512.py',
}
LAYERS = ('decode_head.conv_seg',)
MODES = {'loss mode': 'loss', 'tensor mode': 'tensor'}
OPTIONS: dict[str, dict[str, Any]] = {
    'lean': {},
    'fold_bn=False': dict(fold_bn=False),
    'fused_attention=False': dict(fused_attention=False),
    "autocast='bfloat16'": dict(autocast='bfloat16'),
    "autocast='float16'": dict(autocast='float16'),
    'channels_last=True': dict(channels_last=True),
    'compile=True': dict(compile=True),
    'stream=True': dict(stream=True),
}
WAYS = (*MODES, *OPTIONS)


def make(way: str, config: str, batch: int, size: int) -> Callable[[], Any]:
    """A forward pass of the teacher in one of `WAYS`."""
    if way in MODES:
        return make_mode(MODES[way], dict(config=config), batch, size)
    return make_lean(dict(config=config, **OPTIONS[way]), batch, size)


def make_mode(mode: str, network: dict[str, Any], batch: int, size: int) -> Callable[[], None]:
    """A forward pass of mmseg's network."""
    built, images_NCHW, _ = _build(network, batch, size)
    label_NHW = torch.randint(0, built.num_classes, (batch, size, size), device=images_NCHW.device)
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label[None])) for label in label_NHW]

    def run() -> None:
        with torch.no_grad():
            built(images_NCHW, samples, mode=mode)

    return run


@dataclass(frozen=True)
class Lean:
    """A forward pass of a teacher to its taps."""

    teacher: Teacher
    images_NCHW: Tensor

    def __call__(self) -> None:
        self.teacher.join(self.teacher(self.images_NCHW).outputs)


def make_lean(network: dict[str, Any], batch: int, size: int) -> Lean:
    """A forward pass of a teacher, a network with its options."""
    built, images_NCHW, options = _build(network, batch, size)
    return Lean(Teacher(built, LAYERS, options=options), images_NCHW)


def _build(network: dict[str, Any], batch: int, size: int) -> tuple[Any, Tensor, TeacherOptions]:
    MMLogger.get_current_instance().setLevel('ERROR')
    init_default_scope('mmseg')
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    spec = parse_network(network, 'teacher', is_teacher=True)
    built = build_network(without_initialisation(spec.model), 'teacher').to(device).eval()
    return built, torch.randn(batch, 3, size, size, device=device), spec.options


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--network', choices=NETWORKS, help='default: one after the other')
    parser.add_argument('--batch', type=int, default=2)
    parser.add_argument('--size', type=int, default=512)
    parser.add_argument('--rounds', type=int, default=10)
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument('--ways', nargs='+', choices=WAYS, default=WAYS)
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the figures there too')
    args = parser.parse_args()
    print(f'{device_name()}, {args.threads} threads, {args.rounds} rounds')
    print(f'mmseg_kd {mmseg_kd.__version__}, mmseg {mmseg.__version__}, torch {torch.__version__}')
    rows: dict[str, Any] = {}
    for name in [args.network] if args.network else NETWORKS:
        print(f'\n{name}, {args.batch}x{args.size}x{args.size}\n')
        ways = {way: (make, way, NETWORKS[name], args.batch, args.size) for way in args.ways}
        found = measure(ways, args.rounds, args.threads)
        base = 'lean' if 'lean' in found else next(iter(found))
        print(f'| way | ms | it / {base} |\n| --- | ---: | ---: |')
        for way, one in found.items():
            print(f'| {way} | {one.seconds * 1e3:.0f} | {one.seconds / found[base].seconds:.3f} |')
        # Not the memory: on a CPU its peak is that of the dry runs that build the teacher.
        rows[name] = {way: one.seconds for way, one in found.items()}
    if args.json is not None:
        args.json.write_text(json.dumps(rows, indent=2) + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
