"""Generate the toy scenes: a small street data set in ADE20K's folder layout."""

from __future__ import annotations

import argparse

from mmseg_kd.cli.common import main_of


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='mmseg-kd toy-scenes',
        description=__doc__,
        epilog='example: mmseg-kd toy-scenes data/toy_scenes --train 400',
    )
    root = 'data/toy_scenes'
    parser.add_argument('root', nargs='?', default=root, help=f'folder to make; default: {root}')
    parser.add_argument('--train', type=int, default=400, help='images to train on; default: 400')
    parser.add_argument('--val', type=int, default=100, help='images to validate on; default: 100')
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        default=(128, 128),
        metavar=('H', 'W'),
        help='of an image, in pixels; default: 128 128',
    )
    parser.add_argument('--seed', type=int, default=0, help='of the scenes; default: 0')
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from mmseg_kd.datasets.toy_scenes.dataset import generate_or_say

    generate_or_say(args.root, args.train, args.val, tuple(args.size), args.seed)
    print(f'{args.train} + {args.val} scenes are in {args.root}')
    return 0


main = main_of(_parser, run)
