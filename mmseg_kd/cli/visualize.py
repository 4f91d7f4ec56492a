"""Pictures of what networks predict, where they err, and what their layers hold."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope

from mmseg_kd.analysis.activation import TappedNetwork, check_layers
from mmseg_kd.analysis.activation_figure import ActivationFigure
from mmseg_kd.analysis.comparison import comparison_figure
from mmseg_kd.analysis.differences import choose_images, evenly_spaced
from mmseg_kd.analysis.error_map import error_figure
from mmseg_kd.analysis.scene import make_scenes
from mmseg_kd.checkpoints.save import atomic_write
from mmseg_kd.cli.common import Options, add_trust_argument, run_command
from mmseg_kd.cli.named_networks import (
    NETWORK_HELP,
    NamedNetwork,
    load_networks,
    read_networks,
    read_teacher,
    term_layers,
)
from mmseg_kd.data_checks.image_folder import ImageFiles
from mmseg_kd.data_checks.loading import leaf
from mmseg_kd.data_checks.preflight import build_dataset, check_dataset
from mmseg_kd.errors import ConfigError, DatasetError, DeviceError, Problems, nearest
from mmseg_kd.host.quiet import HostNoise, as_config_error

EXAMPLES = """
example: mmseg-kd visualize compare work_dirs/baseline work_dirs/cgd --teacher

example: mmseg-kd visualize errors baseline=work_dirs/a CGD=CONFIG.py:iter_1200.pth

example: mmseg-kd visualize features work_dirs/cgd --layers backbone.layer4
"""
SPLITS = ('val', 'test')


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
        help="names as in mmseg-kd layers, or STUDENT'S:TEACHER'S where they differ; default: "
        'those of the first distillation with terms',
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
        const='',
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
    parser.add_argument(
        '--device',
        choices=['auto', 'cpu', 'cuda'],
        default='auto',
        help='auto: CUDA where there is one, else the CPU',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=Options,
        metavar='KEY=VALUE',
        help="override entries of the first network's config, which also names the data",
    )
    add_trust_argument(parser)
    parser.add_argument(
        '--debug',
        action='store_true',
        default=argparse.SUPPRESS,
        help='show the traceback of an error',
    )


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    logger = MMLogger.get_current_instance()
    logger.setLevel('WARNING')
    logger.addFilter(HostNoise())
    init_default_scope('mmseg')
    _check_options(args)
    device = _device(args.device)
    named = read_networks(args.networks, args.cfg_options)
    if args.teacher is not None:
        named.append(read_teacher(named, args.teacher or None))
    between = _between(args, named)
    networks = load_networks(named, device)
    layers = _layers(args, named, networks) if args.command == 'features' else []
    dataset = _dataset(named[0].cfg, args, next(iter(networks.values())).num_classes)
    if dataset.metainfo.get('classes') is None:
        raise ConfigError('the data set names no classes; give it metainfo=dict(classes=(...)).')
    chosen = _images(args, networks, dataset, between)
    print(f'Images: {", ".join(f"{name} ({index})" for name, index in chosen)}')
    names, indices = [name for name, _ in chosen], [index for _, index in chosen]
    classes, palette = dataset.metainfo['classes'], dataset.metainfo['palette']
    titles = list(networks)
    if args.command == 'features':
        tapped = {one.title: TappedNetwork(networks[one.title], one.input_size) for one in named}
        drawing = ActivationFigure(tapped, layers, classes, palette, tuple(args.query))
        figure = drawing.draw([dataset[index] for index in indices], names, args.cell_width)
    else:
        scenes = make_scenes(dataset, indices, networks, names)
        if args.command == 'compare':
            figure = comparison_figure(scenes, titles, classes, palette, between, args.cell_width)
        else:
            if any(scene.label_HW is None for scene in scenes):
                raise DatasetError('errors needs ground truth, and the data set has none.')
            figure = error_figure(scenes, titles, palette, between, args.cell_width)
    target = Path(args.out)
    with atomic_write(target) as unfinished:
        figure.save(unfinished, format='PNG', optimize=True)
    print(f'{target}: {figure.width}x{figure.height} pixels')
    return 0


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
    if args.command == 'features' and not all(0 <= part <= 1 for part in args.query):
        raise ConfigError(f'--query: expected two numbers from 0 to 1, got {args.query}.')


def _device(name: str) -> torch.device:
    if name == 'cuda' and not torch.cuda.is_available():
        raise DeviceError('--device cuda: there is none here; leave --device away for the CPU.')
    if name == 'auto':
        name = 'cuda' if torch.cuda.is_available() else 'cpu'
    return torch.device(name)


def _between(args: argparse.Namespace, named: Sequence[NamedNetwork]) -> tuple[str, str] | None:
    """The titles of the two networks that are compared; None where there is one alone."""
    titles = [one.title for one in named]
    if args.between:
        for title in args.between:
            if title not in titles:
                raise ConfigError(
                    f'--between: there is no network {title!r}; {nearest(title, titles)}.'
                )
        first, second = args.between
    else:
        students = titles[: len(args.networks)]
        first, second = titles[0], students[-1] if len(students) > 1 else titles[-1]
    return (first, second) if first != second else None


def _dataset(cfg: Config, args: argparse.Namespace, num_classes: int) -> Any:
    """The images: a split of a config's data, or files."""
    loader = cfg.get(f'{args.split}_dataloader')
    if loader is None:
        there = [split for split in SPLITS if cfg.get(f'{split}_dataloader')]
        raise ConfigError(
            f'--split: the config has no {args.split}_dataloader; it has: {", ".join(there)}.'
        )
    if not args.input:
        try:
            check_dataset(loader['dataset'], args.split, num_classes)
        except DatasetError as error:
            raise DatasetError(f'{error} For images without ground truth: --input DIR.') from error
        return build_dataset(loader['dataset'], args.split)
    # Classes and palette are known without the data set's own files.
    source = leaf(loader['dataset'])
    lazy = build_dataset({**source, 'pipeline': [], 'lazy_init': True}, args.split)
    with as_config_error('pipeline'):
        return ImageFiles(args.input, source['pipeline'], lazy.metainfo)


def _images(
    args: argparse.Namespace,
    networks: Mapping[str, Any],
    dataset: Any,
    between: tuple[str, str] | None,
) -> list[tuple[str, int]]:
    """The images that are asked for or chosen: names and positions."""
    paths = [str(dataset.get_data_info(index)['img_path']) for index in range(len(dataset))]
    if args.images:
        indices = [_position(image, paths) for image in args.images]
    elif between is None:
        indices = evenly_spaced(len(dataset), args.count)
    else:
        looked = min(len(dataset), max(args.sample, args.count))
        print(f'Looking where {between[0]} and {between[1]} differ, on {looked} images ...')
        first, second = (networks[title] for title in between)
        indices = choose_images(first, second, dataset, args.count, args.sample)
    return [(Path(paths[index]).stem, index) for index in indices]


def _position(image: str, paths: Sequence[str]) -> int:
    """The position of an image that is named by its file or by that position."""
    names = [Path(path).name for path in paths]
    stems = [Path(path).stem for path in paths]
    wanted = Path(image).name
    for choices in (names, stems):
        if wanted in choices:
            return choices.index(wanted)
    if image.isdecimal():
        if int(image) < len(paths):
            return int(image)
        raise DatasetError(
            f'--images: expected a position from 0 to {len(paths) - 1}, got {image}.'
        )
    raise DatasetError(f'--images: there is no image {image!r}; {nearest(image, stems)}.')


def _layers(
    args: argparse.Namespace, named: Sequence[NamedNetwork], networks: Mapping[str, Any]
) -> list[dict[str, str]]:
    """For each group of rows the layer of each network, by title."""
    count = len(args.networks)
    pairs = _named_layers(args.layers) if args.layers else term_layers(named, args.teacher or None)
    found: list[dict[str, str]] = []
    for ours, theirs in pairs:
        row = {one.title: ours if index < count else theirs for index, one in enumerate(named)}
        if row not in found:
            found.append(row)
    problems = Problems()
    for one in named:
        with problems:
            check_layers(networks[one.title], [pair[one.title] for pair in found], one.title)
    problems.raise_if_any()
    return found


def _named_layers(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Layers of students and of the teacher."""
    parts = (text.partition(':') for text in texts)
    return [(ours, theirs or ours) for ours, _, theirs in parts]


def main(args: Sequence[str] | None = None) -> int:
    """Parse `args` (None: the command line) and draw; returns the exit code."""
    return run_command(_parser(), run, args)
