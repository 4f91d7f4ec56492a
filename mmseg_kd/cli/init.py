"""Look at a folder of images and masks, and write configs that train on it.

Images and masks are paired by their names; splits are folders, lists such as train.txt, or drawn.
The configs are data, teacher, baseline, distillation and a plan that compares the two, with the
next commands in them.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmseg_kd.cli.common import add_workers_argument, check_workers, main_of
from mmseg_kd.cli.following import follow
from mmseg_kd.errors import ConfigError, DatasetError, Problems

if TYPE_CHECKING:
    from mmseg_kd.datasets.class_list import ClassList
    from mmseg_kd.own_data.classes import Classes
    from mmseg_kd.own_data.pairs import FindOptions
    from mmseg_kd.own_data.survey import Survey

# Findings that are named.
SHOWN = 5


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='mmseg-kd init',
        description=__doc__,
        epilog='example: mmseg-kd init data/streets --classes road car sky --student mobilenetv2',
    )
    parser.add_argument('folder', type=Path, help='folder of images and masks')
    parser.add_argument('--out', type=Path, help='folder for the configs; default: NAME-kd')
    parser.add_argument(
        '--classes',
        nargs='+',
        metavar='NAME',
        help='names of the classes in the order of their values, void for what is to be ignored; '
        'or a file with a line NAME or R G B NAME for each (default: classes.txt in the folder, '
        'else they are asked for)',
    )
    network = 'hf:FOLDER_OR_NAME, timm:BACKBONE, torchvision:NAME, a config, or one of the table'
    parser.add_argument(
        '--teacher',
        default='efficientnet-lite2',
        help=f'{network}; or the work dir of a trained run (default: %(default)s)',
    )
    parser.add_argument(
        '--student', default='mobilenetv2', help=f'{network} (default: %(default)s)'
    )
    parser.add_argument(
        '--schedule',
        default='adamw_20k',
        help='one of configs/_base_/schedules (default: %(default)s)',
    )
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        metavar=('HEIGHT', 'WIDTH'),
        help="to train on (default: the commonest image's, its shorter side 512 at most)",
    )
    parser.add_argument('--images', metavar='FOLDER', help='where the images are, seen from there')
    parser.add_argument('--masks', metavar='FOLDER', help='where the masks are')
    parser.add_argument(
        '--mask-suffix', metavar='END', help='how names of masks end, such as _labelIds.png'
    )
    parser.add_argument(
        '--val-share',
        type=float,
        default=0.2,
        help='of the images, where there is no split for validation (default: %(default)s)',
    )
    parser.add_argument('--seed', type=int, default=0, help='of the choice of these')
    parser.add_argument(
        '--overwrite', action='store_true', help='write into a folder that is not empty'
    )
    add_workers_argument(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from mmseg_kd.own_data.pairs import FindOptions
    from mmseg_kd.own_data.project import Project, check_words, size_for, write_project

    name = args.folder.resolve().name
    out = args.out or Path(f'{name}-kd')
    problems = Problems()
    with problems:
        check_words(args.teacher, args.student, args.schedule)
    with problems:
        if out.is_dir() and any(out.iterdir()) and not args.overwrite:
            raise ConfigError(f'{out} is not empty; choose --out, or add --overwrite.')
    with problems:
        if args.size is not None and min(args.size) < 1:
            raise ConfigError(f'--size: expected a height and a width >= 1, got {args.size}.')
    survey = classes = None
    with problems:
        check_workers(args.workers)
        options = FindOptions(args.images, args.masks, args.mask_suffix, args.val_share, args.seed)
        survey = _look(args.folder, options, args.workers)
        classes = _named(survey, args.classes)
    problems.raise_if_any()
    assert survey is not None
    assert classes is not None
    _print_classes(survey, classes)
    size = size_for(survey.sizes) if args.size is None else (args.size[0], args.size[1])
    project = Project(
        survey.pairs, classes, size, out, name, args.teacher, args.student, args.schedule
    )
    if not classes.as_they_are:
        print(f'Masks of class indices are written to {out / "masks"}.')
    configs = write_project(project)
    print(f'Images are trained on at {size[0]}x{size[1]}. Next:')
    for config in configs.values():
        print(f'  {shlex.join(["mmseg-kd", "train", str(config)])}')
    print(f'  {shlex.join(["mmseg-kd", "report", *map(project.work_dir, configs)])}')
    print(f'  {shlex.join(["mmseg-kd", "compare", project.config("plan")])}')
    return 0


def _look(folder: Path, options: FindOptions, workers: int) -> Survey:
    """Pair and read all files, and say what was found."""
    from mmseg_kd.own_data.pairs import find_pairs
    from mmseg_kd.own_data.survey import Survey

    pairs = find_pairs(folder, options)
    survey = Survey(pairs)
    follow('Reading', len(survey), survey.run(workers), 'pairs', _note)
    counts = ', '.join(f'{len(found):,} {split}' for split, found in pairs.splits.items())
    print(f'{folder}: {counts} (splits: {pairs.origin})')
    for line in pairs.left_out:
        print(f'  left out: {line}')
    for finding in survey.findings[:SHOWN]:
        print(f'  left out: {finding}')
    if len(survey.findings) > SHOWN:
        print(f'  left out: {len(survey.findings) - SHOWN} more')
    common = [f'{h}x{w} ({count:,})' for (h, w), count in survey.sizes.most_common(3)]
    more = ', ...' if len(survey.sizes) > len(common) else ''
    print(f'  height x width: {", ".join(common)}{more}')
    kind = 'colours' if survey.is_colour else 'values'
    print(f'  masks: {len(survey.values)} {kind}')
    return survey


def _note(survey: Survey) -> str:
    return f'{len(survey.findings)} bad files'


def _named(survey: Survey, given: Sequence[str] | None) -> Classes:
    """The classes: as the command line, a file or the user at the terminal says."""
    from mmseg_kd.datasets.class_list import class_list, read_class_list
    from mmseg_kd.own_data.classes import class_file, name_classes

    file = class_file(survey.pairs.root)
    if given and len(given) == 1 and Path(given[0]).is_file():
        found = read_class_list(given[0])
    elif given:
        found = class_list(given, '--classes')
    elif file is not None:
        print(f'  names: {file}')
        found = read_class_list(file)
    else:
        found = _asked(survey)
    return name_classes(survey, found)


def _asked(survey: Survey) -> ClassList:
    """The names that the user types in, one for each value or colour."""
    from mmseg_kd.datasets.class_list import class_list
    from mmseg_kd.own_data.classes import described, listed, what_needs_names
    from mmseg_kd.own_data.survey import rgb

    values = what_needs_names(survey)
    if not sys.stdin.isatty():
        what = 'colours' if survey.is_colour else 'values'
        raise DatasetError(
            f'what are the classes called? Expected --classes NAME NAME ... or a file with a line '
            f'{"R G B NAME" if survey.is_colour else "NAME"} for each; the masks hold '
            f'{len(values)} {what}: {listed(survey, values)}.'
        )
    print('What are they called? void: no class, ignored.')
    lines: list[str] = []
    for value in values:
        name = ''
        while not name:
            try:
                name = input(f'  {described(survey, value)}: ').strip()
            except EOFError:
                raise DatasetError(
                    f'expected {len(values)} names, and the input ended after {len(lines)}; '
                    '--classes NAME NAME ... takes them too.'
                ) from None
        lines.append(' '.join([*map(str, rgb(value)), name]) if survey.is_colour else name)
    return class_list(lines, 'names')


def _print_classes(survey: Survey, classes: Classes) -> None:
    """Print the share of each class in the pixels, and how many masks have it."""
    from mmseg_kd.own_data.classes import IGNORED
    from mmseg_kd.own_data.survey import shares

    names = classes.found.names
    splits = list(survey.pairs.splits)
    width = max(map(len, (*names, 'ignored')))
    print('\n' + ' ' * (width + 2) + ''.join(f'{split:>10}{"masks":>8}' for split in splits))
    pixels = {split: classes.counts(survey.pixels[split]) for split in splits}
    masks = {split: classes.counts(survey.masks[split]) for split in splits}
    for label, name in [*enumerate(names), (IGNORED, 'ignored')]:
        counts = (f'{masks[s][label]:,}' if label != IGNORED else '' for s in splits)
        parts = (f'{shares(pixels[s]).get(label, 0):.2%}' for s in splits)
        cells = ''.join(f'{a:>10}{b:>8}' for a, b in zip(parts, counts, strict=True))
        print(f'  {name:<{width}}{cells}'.rstrip())
    print()


main = main_of(_parser, run, log_level='WARNING')
