"""Write one HTML page about one or several trainings: what they reached, and how they compare."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmseg_kd.cli.common import add_trust_argument, main_of
from mmseg_kd.errors import ConfigError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='mmseg-kd report',
        description=__doc__,
        epilog='example: mmseg-kd report CGD=work_dirs/cgd work_dirs/baseline',
    )
    parser.add_argument(
        'work_dirs',
        nargs='+',
        metavar='WORK_DIR',
        help='work dir of a training, or TITLE=WORK_DIR; several are compared; or that of '
        'mmseg-kd compare',
    )
    parser.add_argument(
        '--out', metavar='FILE', help='the page; default: report.html in the first work dir'
    )
    parser.add_argument('--title', help='of the page; default: what the best student reached')
    parser.add_argument(
        '--no-measure',
        action='store_true',
        help='take what the logs have, and run no network',
    )
    parser.add_argument(
        '--pictures', type=int, default=6, metavar='N', help='images to show; default: 6'
    )
    add_trust_argument(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from mmengine.registry import init_default_scope

    from mmseg_kd.checkpoints.durable import write_durably
    from mmseg_kd.report.comparison import read_compared
    from mmseg_kd.report.measuring import measure_runs
    from mmseg_kd.report.page import render
    from mmseg_kd.report.run import read_runs
    from mmseg_kd.runs.work_dir import split_title

    if args.pictures < 0:
        raise ConfigError(f'--pictures: expected 0 or more, got {args.pictures}.')
    init_default_scope('mmseg')
    runs = read_runs(args.work_dirs)
    out = Path(args.out) if args.out else Path(split_title(args.work_dirs[0])[1], 'report.html')
    if out.suffix.lower() not in ('.html', '.htm'):
        raise ConfigError(f'--out: expected a name that ends in .html, got {args.out!r}.')
    subjects = {} if args.no_measure else measure_runs(runs)
    comparisons = read_compared(args.work_dirs, runs)
    page = render(runs, subjects, args.pictures, args.title, comparisons=comparisons)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_durably(out, page.encode())
    except OSError as error:
        raise ConfigError(
            f'{out}: the page cannot be written: {error}. Name a place with --out.'
        ) from error
    for one in runs:
        for gap in dict.fromkeys(text for texts in one.gaps.values() for text in texts):
            print(f'{one.title}: {gap}')
    print(f'Report: {out} ({len(page.encode()) / 2**20:.1f} MiB)')
    return 0


main = main_of(_parser, run, log_level='WARNING')
