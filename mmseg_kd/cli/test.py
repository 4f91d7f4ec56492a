"""Measure a network on a config's test split, or another: mIoU, mAcc, aAcc and every class."""

from __future__ import annotations

import argparse

from mmseg_kd.cli.common import add_config_arguments, add_run_arguments, main_of, place_run


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='mmseg-kd test',
        description=__doc__,
        epilog='example: mmseg-kd test CONFIG work_dirs/NAME/iter_160000.pth --tta',
    )
    add_config_arguments(parser)
    parser.add_argument(
        'checkpoint',
        nargs='?',
        help='checkpoint of a distillation or of a student on its own; with --teacher it may be '
        "omitted: the config's is taken",
    )
    add_run_arguments(parser)
    parser.add_argument(
        '--teacher',
        nargs='?',
        const='',
        metavar='NAME',
        help='measure the teacher instead, or the one called NAME of several',
    )
    parser.add_argument(
        '--split',
        choices=('test', 'val'),
        default='test',
        help='whose images; default: test',
    )
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    parser.add_argument('--out', metavar='DIR', help='write the predicted masks there')
    parser.add_argument('--show-dir', metavar='DIR', help='write painted images there')
    parser.add_argument(
        '--plain-eval',
        action='store_true',
        help="mmseg's own prediction, scores kept, and metric",
    )
    parser.add_argument(
        '--fused-attention',
        action='store_true',
        help='transformers: less time and memory for large images, scores equal to rounding',
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from mmseg_kd.config.load import load_config
    from mmseg_kd.engine.testing import MeasuringOptions, prepare_test, run_test
    from mmseg_kd.host.ranks import exit_all_ranks

    cfg = load_config(args.config, args.cfg_options)
    place_run(cfg, args)
    options = MeasuringOptions(
        teacher=args.teacher,
        split=args.split,
        tta=args.tta,
        out=args.out,
        show_dir=args.show_dir,
        plain_eval=args.plain_eval,
        fused_attention=args.fused_attention,
        device=args.device,
        launcher=args.launcher,
    )
    run_test(prepare_test(cfg, args.checkpoint, options))
    exit_all_ranks()
    return 0


main = main_of(_parser, run)
