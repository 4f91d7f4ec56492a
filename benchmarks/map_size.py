"""What a network's scores are worth at the size of another one's map.

    python benchmarks/map_size.py CONFIG --sizes 60x80 30x40 [--checkpoint FILE] [--split val]

The scores of CONFIG's teacher, or of the network in FILE, are averaged to each size and scaled up
again, and mIoU is measured: a student with maps of that size that copied the teacher to the last
digit would come no further. What the gap between the two is more than that is the student's own.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

import mmseg_kd.register  # noqa: F401
from mmseg_kd.config.load import load_config
from mmseg_kd.engine.testing import MeasuringOptions, prepare_test
from mmseg_kd.networks.build import student_of


def size_of(text: str) -> tuple[int, int]:
    height, width = map(int, text.split('x'))
    return height, width


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config')
    parser.add_argument(
        '--checkpoint', help="of the trained network; else it is the config's teacher"
    )
    parser.add_argument('--sizes', nargs='+', type=size_of, default=[(60, 80)], metavar='HxW')
    parser.add_argument('--split', choices=('test', 'val'), default='test', help='whose images')
    parser.add_argument(
        '--layer', default='decode_head.conv_seg', help='whose output is the scores'
    )
    args = parser.parse_args()

    teacher = None if args.checkpoint else ''
    options = MeasuringOptions(teacher=teacher, split=args.split, plain_eval=True)
    cfg = load_config(args.config, {'work_dir': 'work_dirs/map_size'})
    runner = prepare_test(cfg, args.checkpoint, options)
    network: Any = student_of(runner.model)
    size: tuple[int, int] | None = None

    def average(_: nn.Module, __: Any, scores_NChw: Tensor) -> Tensor:
        return scores_NChw if size is None else F.adaptive_avg_pool2d(scores_NChw, size)

    network.get_submodule(args.layer).register_forward_hook(average)
    lines = ['| scores at | mIoU |', '| --- | ---: |']
    for size in (None, *args.sizes):
        name = 'their own size' if size is None else '{}x{}'.format(*size)
        lines.append(f'| {name} | {runner.test()["mIoU"]:.2f} |')
    print('\n'.join(lines))


if __name__ == '__main__':
    main()
