"""Pictures of what networks predict, where they err, and what their layers hold."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mmseg_kd.cli.common import Options, add_device_argument, add_trust_argument, main_of
from mmseg_kd.errors import ConfigError

if TYPE_CHECKING:
    from mmseg_kd.analysis.lineup import Lineup

EXAMPLES = """
example: mmseg-kd visualize compare work_dirs/baseline work_dirs/cgd --teacher

example: mmseg-kd visualize errors baseline=work_dirs/a CGD=CONFIG.py:iter_1200.pth

example: mmseg-kd visualize features work_dirs/cgd --layers backbone.layer4
"""
SPLITS = ('val', 'test')
NETWORK_HELP = (
    '[TITLE=]WORK_DIR, the folder of a run (its best checkpoint, or the newest where it kept no '
    'best one), or [TITLE=]CONFIG:CHECKPOINT'
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='mmseg-kd visualize',
        description=__doc__,
        epilog=EXAMPLES,
    )
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    compare = commands.add_parser(
        'compare',
        help='image, ground truth and predictions side by side',
        description='Image, ground truth and the predictions of networks side by side; where two '
        'of them differ most is outlined.',
    )
    _add_common(compare, 'comparison.png', count=3)
    errors = commands.add_parser(
        'errors',
        help='what each network gets wrong, and which of two is right where',
        description='What each network gets wrong over the dimmed image, and which of two '
        'networks is right where.',
    )
    _add_common(errors, 'errors.png', count=3)
    features = commands.add_parser(
        'features',
        help='features, class scores and attention of layers side by side',
        description='What layers hold of an image, a column a network: the energy and the '
        'principal components of features, the best class and the entropy of class scores, the '
        'attention of one point.',
    )
    _add_common(features, 'features.png', count=1)
    features.add_argument(
        '--layers',
        nargs='+',
        metavar='LAYER',
        help="names as mmseg-kd layers prints them, or STUDENT'S:TEACHER'S where they differ; "
        'default: those of the first distillation with terms',
    )
    features.add_argument(
        '--query',
        nargs=2,
        type=float,
        default=(0.5, 0.5),
        metavar=('X', 'Y'),
        help='the point whose attention is shown, from 0 0 (top left) to 1 1; default: 0.5 0.5',
    )
    return parser


def _add_common(parser: argparse.ArgumentParser, out: str, count: int) -> None:
    """What all figures have in common."""
    parser.add_argument('networks', nargs='+', metavar='NETWORK', help=NETWORK_HELP)
    parser.add_argument(
        '--teacher',
        nargs='?',
        const=True,
        default=False,
        metavar='NAME',
        help='the teacher of the first distillation among them too, last; NAME: one of several',
    )
    parser.add_argument(
        '--between',
        nargs=2,
        metavar='TITLE',
        help='the two networks whose differences choose the images and are outlined; default: the '
        'first and the last one, the teacher only where there is no other',
    )
    parser.add_argument('--out', default=out, metavar='FILE', help=f'a PNG file; default: {out}')
    images = parser.add_argument_group('images')
    images.add_argument(
        '--images',
        nargs='+',
        metavar='IMAGE',
        help='their names, or positions in the split from 0 on; default: those on which the '
        'networks differ most, spread over the split',
    )
    images.add_argument(
        '--count', type=int, default=count, help=f'how many to choose; default: {count}'
    )
    images.add_argument(
        '--sample',
        type=int,
        default=60,
        metavar='N',
        help='choose among this many, evenly spaced; default: 60',
    )
    images.add_argument(
        '--split', choices=SPLITS, default='val', help="of the first network's data; default: val"
    )
    images.add_argument(
        '--input', metavar='PATH', help='an image or a folder of images without ground truth'
    )
    parser.add_argument(
        '--cell-width', type=int, default=320, metavar='PIXELS', help='of a picture; default: 320'
    )
    add_device_argument(parser)
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=Options,
        metavar='KEY=VALUE',
        help="override entries of the first network's config, which also names the data",
    )
    add_trust_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from mmengine.logging import MMLogger

    from mmseg_kd.analysis import figures
    from mmseg_kd.analysis.lineup import line_up
    from mmseg_kd.checkpoints.save import atomic_write
    from mmseg_kd.host.quiet import HostNoise

    MMLogger.get_current_instance().addFilter(HostNoise())
    _check_options(args)
    lineup = line_up(
        args.networks,
        teacher=args.teacher,
        between=args.between,
        split=args.split,
        input=args.input,
        device=args.device,
        cfg_options=args.cfg_options,
    )
    if args.command == 'features':
        # Before images are looked for.
        figures.layers_of(lineup, args.layers)
    images = _images(args, lineup)
    if args.command == 'compare':
        figure = figures.compare(lineup, images, args.cell_width)
    elif args.command == 'errors':
        figure = figures.errors(lineup, images, args.cell_width)
    else:
        query = tuple(args.query)
        figure = figures.features(lineup, images, args.layers, query, args.cell_width)
    target = Path(args.out)
    with atomic_write(target) as unfinished:
        figure.save(unfinished, format='PNG', optimize=True)
    print(f'{target}: {figure.width}x{figure.height} pixels')
    return 0


def _images(args: argparse.Namespace, lineup: Lineup) -> list[int]:
    """The images that are asked for or chosen."""
    if args.images:
        images = lineup.find(args.images)
    else:
        if lineup.between:
            looked = min(len(lineup.dataset), max(args.sample, args.count))
            first, second = lineup.between
            print(f'Looking where {first} and {second} differ, on {looked} images ...')
        images = lineup.choose(args.count, args.sample)
    named = zip(lineup.names(images), images, strict=True)
    print(f'Images: {", ".join(f"{name} ({index})" for name, index in named)}')
    return images


def _check_options(args: argparse.Namespace) -> None:
    for option, least in (('count', 1), ('sample', 1), ('cell_width', 64)):
        value = getattr(args, option)
        if value < least:
            name = option.replace('_', '-')
            raise ConfigError(f'--{name}: expected {least} or more, got {value}.')
    if Path(args.out).suffix.lower() != '.png':
        raise ConfigError(f'--out: expected a name that ends in .png, got {args.out!r}.')
    if args.command == 'errors' and args.input:
        raise ConfigError('errors needs ground truth, and --input has none; take compare.')


main = main_of(_parser, run, log_level='WARNING')
