"""Predict masks for images without any, 255 where the network is not sure: data to train on.

With --scores it keeps the scores of the classes, for teacher=dict(stored=True), which is then not
run in training. Finished files are left as they are, so that a run that was stopped goes on where
it was. On several GPUs: mmseg-kd launch GPUS pseudo-label ...
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmseg_kd.cli.common import (
    add_device_argument,
    add_rank_arguments,
    add_trust_argument,
    main_of,
)
from mmseg_kd.cli.following import follow

if TYPE_CHECKING:
    from mmseg_kd.analysis.pseudo_labels import Coverage, Settings


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='mmseg-kd pseudo-label',
        description=__doc__,
        epilog='example: mmseg-kd pseudo-label CONFIG data/streets/new data/streets/new_masks '
        '--teacher',
    )
    parser.add_argument(
        'config',
        help='work dir of a run, or CONFIG:CHECKPOINT; with --teacher a config will do',
    )
    parser.add_argument('images', type=Path, help='folder of images')
    parser.add_argument('out', type=Path, help='folder for the files, and for nothing else')
    parser.add_argument(
        '--teacher',
        nargs='?',
        const='',
        metavar='NAME',
        help="the config's teacher predicts; of several the one of this name",
    )
    parser.add_argument(
        '--min-confidence',
        type=float,
        help='the largest probability of a pixel, below which it gets 255 (default: 0.9)',
    )
    parser.add_argument(
        '--scores', action='store_true', help='keep the scores of the classes, and no masks'
    )
    parser.add_argument(
        '--stride',
        type=int,
        help='of --scores: pixels a side for each position that is kept (default: 4)',
    )
    add_trust_argument(parser)
    add_device_argument(parser)
    add_rank_arguments(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    import torch
    from mmengine.dist import barrier

    from mmseg_kd.analysis.pseudo_labels import PseudoLabels
    from mmseg_kd.host.device import find_device
    from mmseg_kd.host.ranks import exit_all_ranks, join_ranks

    device = find_device(args.device)
    rank, ranks = join_ranks(args.launcher)
    if ranks > 1 and device.type == 'cuda':
        device = torch.device('cuda', int(os.environ.get('LOCAL_RANK', args.local_rank)))
    settings = _settings(args)
    labels = PseudoLabels(settings, args.images, args.out, device)
    problems: list[str] = []

    def steps() -> Iterator[None]:
        for problem in labels.run(rank, ranks):
            if problem is not None:
                problems.append(problem)
            yield

    count = len(range(rank, len(labels.images), ranks))
    follow('Labelling', count, steps(), 'images', lambda _: f'{len(problems)} bad')
    for problem in problems:
        print(f'error: {problem}', file=sys.stderr)
    exit_code = 1 if problems else 0
    barrier()
    if rank == 0 and args.scores:
        files = [*filter(Path.is_file, map(labels.target, range(len(labels.images))))]
        mib = sum(file.stat().st_size for file in files) / 2**20
        print(f'{len(files):,} files of scores in {args.out}, {mib:,.1f} MiB')
    elif rank == 0:
        _print_coverage(labels.coverage(), labels.classes, args.out)
    exit_all_ranks(exit_code)
    return exit_code


def _settings(args: argparse.Namespace) -> Settings:
    from mmseg_kd.analysis.pseudo_labels import Settings
    from mmseg_kd.errors import ConfigError

    stride, min_confidence = args.stride, args.min_confidence
    if args.scores:
        if min_confidence is not None:
            raise ConfigError('--min-confidence says nothing of scores; leave it out.')
        return Settings(args.config, args.teacher, stride=4 if stride is None else stride)
    if stride is not None:
        raise ConfigError('--stride says nothing of masks; leave it out, or add --scores.')
    return Settings(args.config, args.teacher, 0.9 if min_confidence is None else min_confidence)


def _print_coverage(coverage: Coverage, classes: Sequence[str], out: Path) -> None:
    """Print the share of each class in the pixels that have one, and how many masks have it."""
    width = max(map(len, classes))
    print(f'{coverage.masks:,} masks in {out}, {coverage.share:.1%} of their pixels labelled')
    print(f'  {"":<{width}}{"share":>10}{"masks":>10}')
    total = max(int(coverage.pixels.sum()), 1)
    for name, pixels, masks in zip(classes, coverage.pixels, coverage.images, strict=True):
        print(f'  {name:<{width}}{pixels / total:>10.2%}{masks:>10,}')


main = main_of(_parser, run, log_level='WARNING')
