"""Bring configs and checkpoints of SegDistill here.

`config` writes a config of this project. What could not be converted is listed as
OLD.py:LINE: what, and the exit code is then 2. `checkpoint` writes weights under mmseg's names,
and beside them a config of the network that they are for.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mmseg_kd.cli.common import add_trust_argument, main_of

PARTLY = 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='mmseg-kd convert-segdistill',
        description=__doc__,
        epilog='example: mmseg-kd convert-segdistill config old/b3_b0_cgd.py new.py',
    )
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    config = commands.add_parser('config', help='an old config to a config of this project')
    config.add_argument('old', type=Path, metavar='OLD.py')
    config.add_argument('new', type=Path, metavar='NEW.py', help='is overwritten if it is there')
    checkpoint = commands.add_parser('checkpoint', help='an old checkpoint to mmseg 1.x')
    checkpoint.add_argument('old', metavar='OLD', help='file or https URL')
    checkpoint.add_argument('new', type=Path, metavar='NEW', help='NEW.pth or NEW.safetensors')
    checkpoint.add_argument(
        '--side',
        choices=['student', 'teacher'],
        help="which network of a distillation's checkpoint; of --config too, default: student",
    )
    checkpoint.add_argument(
        '--config', help='config with the network that the weights are for; default: found out'
    )
    add_trust_argument(checkpoint)
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from mmengine.registry import init_default_scope

    init_default_scope('mmseg')
    if args.command == 'config':
        return run_config(args)
    return run_checkpoint(args)


def run_config(args: argparse.Namespace) -> int:
    """Convert a config."""
    from mmseg_kd.host.quiet import as_config_error
    from mmseg_kd.migration import convert_config

    with as_config_error(str(args.old)):
        converted = convert_config(args.old)
    converted.save(args.new)
    print(f'{args.old} -> {args.new}')
    print('\n'.join(converted.report.lines()))
    return PARTLY if converted.report.problems else 0


def run_checkpoint(args: argparse.Namespace) -> int:
    """Convert a checkpoint."""
    from mmseg_kd.config.load import load_config
    from mmseg_kd.config.network_spec import teacher_of, trained_network_of
    from mmseg_kd.migration.checkpoints.convert import convert_checkpoint, save_conversion

    model = None
    if args.config is not None:
        cfg = load_config(args.config, None)
        spec = teacher_of(cfg, None) if args.side == 'teacher' else trained_network_of(cfg)
        model = spec.model
    conversion = convert_checkpoint(args.old, args.side, model)
    weights, config = save_conversion(conversion, args.new)
    print(f'{conversion.source}: {conversion.layout}, {len(conversion.state_dict)} tensors')
    print('\n'.join(conversion.notes))
    print(f'weights: {weights}\nnetwork: {config}')
    return 0


main = main_of(_parser, run)
