"""Read every image and mask of a config's data: all that is wrong, and class statistics.

The files are read as training reads them, by the loading transforms of each split's pipeline.
The exit code is 1 where there are errors; warnings alone leave it 0.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from mmseg_kd.cli.common import add_config_arguments, add_workers_argument, check_workers, main_of
from mmseg_kd.cli.following import follow
from mmseg_kd.data_checks.findings import KINDS, SPLITS, Finding
from mmseg_kd.errors import ConfigError, KDError, Problems

if TYPE_CHECKING:
    from mmseg_kd.data_checks.full_check import Split

# Files that are named of each kind.
SHOWN = 5


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='mmseg-kd check-data',
        description=__doc__,
        epilog='example: mmseg-kd check-data CONFIG --split train --json report.json',
    )
    add_config_arguments(parser)
    parser.add_argument(
        '--split', nargs='+', choices=SPLITS, metavar='SPLIT', help='only these; default: all'
    )
    parser.add_argument(
        '--all', action='store_true', help=f'name every bad file, not {SHOWN} of each kind'
    )
    parser.add_argument('--json', type=Path, metavar='FILE', help='write all of it there as well')
    add_workers_argument(parser)
    return parser


def _errors(findings: Sequence[Finding]) -> int:
    return sum(finding.error for finding in findings)


def _note(split: Split) -> str:
    return f'{_errors(split.findings)} errors'


def _count(number: int, word: str) -> str:
    return f'{number:,} {word}{"" if number == 1 else "s"}'


def print_findings(splits: Mapping[str, Split], limit: int | None) -> None:
    """Print what is wrong, by kind, errors first; of each kind up to `limit` files."""
    for heading, error in (
        ('Errors: training stops there, or skips the sample (BadDataHook)', True),
        ('Warnings: training goes on', False),
    ):
        found = [(s.name, f) for s in splits.values() for f in s.findings if f.error == error]
        if found:
            print(f'{heading}\n')
        for kind, about in KINDS.items():
            files = [(split, finding) for split, finding in found if finding.kind == kind]
            if files:
                effect = f': {about.effect}' if about.effect else ''
                print(f'  {about.title} ({len(files):,}){effect}\n  {about.mend}')
                _print_files(files, limit)


def _print_files(files: Sequence[tuple[str, Finding]], limit: int | None) -> None:
    width = max(len(split) for split, _ in files)
    for split, finding in files[:limit]:
        print(f'    {split:<{width}}  {finding.name} {finding.detail}')
    if limit is not None and len(files) > limit:
        print(f'    and {len(files) - limit:,} more: --all names them')
    print()


def print_statistics(splits: Mapping[str, Split]) -> None:
    """Print the share of each class in the labelled pixels, how many masks have it, and sizes."""
    shown = {name: split for name, split in splits.items() if split.pixels.any()}
    if shown:
        names = max((split.classes for split in shown.values()), key=len)
        width = max(map(len, (*names, 'height x width')))
        print('Classes: their share of the labelled pixels, and the masks that have them')
        print(f'  {"":<{width}}' + ''.join(f'{name:>12}{"":>10}' for name in shown).rstrip())
        print(f'  {"":<{width}}' + f'{"share":>12}{"masks":>10}' * len(shown))
        for index, label in enumerate(names):
            cells = (
                f'{split.shares()[index]:>12.2%}{split.images[index]:>10,}'
                for split in shown.values()
            )
            print(f'  {label:<{width}}' + ''.join(cells))
        cells = (f'{split.ignored_share:>12.2%}{"":>10}' for split in shown.values())
        print(f'  {"ignored":<{width}}{"".join(cells)}'.rstrip() + '  of all pixels\n')
    print('Sizes of the images, height x width')
    for name, split in splits.items():
        common = [f'{h}x{w} ({count:,})' for (h, w), count in split.sizes.most_common(3)]
        text = ', '.join(common) or 'none could be read'
        if len(split.sizes) > len(common):
            heights, widths = zip(*split.sizes, strict=True)
            text += f' and {_count(len(split.sizes) - len(common), "more size")}; heights '
            text += f'{min(heights)} to {max(heights)}, widths {min(widths)} to {max(widths)}'
        print(f'  {name:<5}  {text}')
    print()


def as_json(splits: Mapping[str, Split], same: Mapping[str, str], problems: Problems) -> str:
    """All of it, for programs."""
    report = {
        'problems': [str(error) for error in problems.errors],
        'same_splits': dict(same),
        'splits': {
            name: {
                'samples': split.samples,
                'ignored_share': split.ignored_share,
                'classes': [
                    {'name': label, 'pixels': int(pixels), 'share': float(share), 'masks': int(n)}
                    for label, pixels, share, n in zip(
                        split.classes, split.pixels, split.shares(), split.images, strict=True
                    )
                ],
                'sizes': [
                    {'height': h, 'width': w, 'images': count}
                    for (h, w), count in split.sizes.most_common()
                ],
                'findings': [{**asdict(one), 'error': one.error} for one in split.findings],
            }
            for name, split in splits.items()
        },
    }
    return json.dumps(report, indent=2, ensure_ascii=False) + '\n'


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from mmengine.registry import init_default_scope

    from mmseg_kd.config.load import load_config
    from mmseg_kd.data_checks.full_check import SplitCheck, shared_findings
    from mmseg_kd.data_checks.preflight import build_dataset
    from mmseg_kd.data_checks.splits import expected_of, splits_of
    from mmseg_kd.host.quiet import as_config_error

    check_workers(args.workers)
    init_default_scope('mmseg')
    cfg = load_config(args.config, args.cfg_options, needs_model=False)
    datasets, same = splits_of(cfg, args.split)
    num_classes, channels = expected_of(cfg)
    problems = Problems()
    splits: dict[str, Split] = {}
    for name, dataset_cfg in datasets.items():
        with problems, as_config_error(f'{name} data'):
            dataset = build_dataset(dataset_cfg, name)
            check = SplitCheck(name, dataset, num_classes, channels)
            follow(name, len(check), check.run(args.workers), 'samples', _note)
            splits[name] = check.split
    for name, findings in shared_findings(splits).items():
        splits[name].findings += findings

    if splits:
        for name, split in splits.items():
            sources = ' and '.join(split.sources)
            print(f'{name:<5}  {_count(split.samples, "sample")}: {sources}')
        for name, twin in same.items():
            print(f'{name:<5}  the same as {twin}')
        print()
        print_findings(splits, None if args.all else SHOWN)
        print_statistics(splits)
    if args.json is not None:
        _write(args.json, as_json(splits, same, problems))
    for error in problems.errors:
        print(f'error: {error}')
    return _verdict(splits, problems.errors)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding='utf-8')
    except OSError as error:
        raise ConfigError(f'--json: {path} cannot be written: {error.strerror}.') from error


def _verdict(splits: Mapping[str, Split], problems: Sequence[KDError]) -> int:
    """Print the end of the report; returns the exit code."""
    findings = [finding for split in splits.values() for finding in split.findings]
    errors = _errors(findings) + len(problems)
    samples = sum(split.samples for split in splits.values())
    warnings = _count(len(findings) - _errors(findings), 'warning')
    print(f'{_count(samples, "sample")} read: {_count(errors, "error")}, {warnings}')
    return 1 if errors else 0


main = main_of(_parser, run, log_level='WARNING')
