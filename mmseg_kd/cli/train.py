"""Train a network, or distil one.

Told to stop by SIGTERM, SIGUSR1 or Ctrl-C, it writes a checkpoint and ends with exit code 75: go on
with --resume.
"""

from __future__ import annotations

import argparse

from mmseg_kd.cli.common import add_config_arguments, add_run_arguments, main_of, place_run


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='mmseg-kd train',
        description=__doc__,
        epilog='example: mmseg-kd train mmseg_kd::distillation_configs/example_config.py --amp',
    )
    add_config_arguments(parser)
    add_run_arguments(parser)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='FILE',
        help='go on from FILE, or from the newest checkpoint in the work dir',
    )
    parser.add_argument(
        '--allow-changes',
        action='store_true',
        help='with --resume: go on even if networks, terms, teachers or optimiser are others',
    )
    parser.add_argument(
        '--amp', action='store_true', help='mixed precision: float16 on a GPU, bfloat16 on a CPU'
    )
    parser.add_argument('--seed', type=int, help='seed of all random generators')
    parser.add_argument(
        '--deterministic', action='store_true', help='deterministic algorithms where there are any'
    )
    parser.add_argument(
        '--plain-eval',
        action='store_true',
        help="validate with mmseg's own prediction, scores kept, and metric",
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from mmseg_kd.config.load import load_config
    from mmseg_kd.engine.training import TrainingOptions, prepare_training, run_training
    from mmseg_kd.host.ranks import exit_all_ranks

    cfg = load_config(args.config, args.cfg_options)
    place_run(cfg, args)
    options = TrainingOptions(
        resume=True if args.resume == 'auto' else args.resume or False,
        amp=args.amp,
        seed=args.seed,
        deterministic=args.deterministic,
        allow_changes=args.allow_changes,
        plain_eval=args.plain_eval,
        device=args.device,
        launcher=args.launcher,
    )
    run_training(prepare_training(cfg, options))
    exit_all_ranks()
    return 0


main = main_of(_parser, run)
