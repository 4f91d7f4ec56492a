"""Print a config with its bases and options as one file.

What is printed is itself a config, and loads to the same.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mmseg_kd.cli.common import add_config_arguments, main_of
from mmseg_kd.errors import ConfigError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='mmseg-kd print-config',
        description=__doc__,
        epilog='example: mmseg-kd print-config mmseg_kd::distillation_configs/example_config.py '
        '--resolve --out whole.py',
    )
    add_config_arguments(parser)
    parser.add_argument(
        '--resolve',
        action='store_true',
        help='put teacher and student themselves in the place of the configs that they name',
    )
    parser.add_argument('--out', type=Path, metavar='FILE', help='write it there instead')
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from mmseg_kd.config.load import load_config
    from mmseg_kd.config.network_spec import is_distillation
    from mmseg_kd.config.resolved import resolved
    from mmseg_kd.config.text import write

    cfg = load_config(args.config, args.cfg_options, needs_model=False)
    values = cfg.to_dict()
    if args.resolve:
        if cfg.get('model') is None or not is_distillation(cfg):
            raise ConfigError('--resolve: expected a distillation; this config names no networks.')
        values['model'] = resolved(values['model'])
    text = write(values)
    if args.out is None:
        print(text, end='')
        return 0
    try:
        args.out.write_text(text, encoding='utf-8')
    except OSError as error:
        raise ConfigError(f'--out: {args.out} cannot be written: {error.strerror}.') from error
    print(f'{args.config} -> {args.out}')
    return 0


main = main_of(_parser, run)
