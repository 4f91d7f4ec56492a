"""List the layers that can be tapped, with class, output shape and parameters.

With --pair, propose terms instead: a `distillation` list for the config's teacher and student.
"""

from __future__ import annotations

import argparse
from fnmatch import fnmatch

from mmseg_kd.cli.common import add_config_arguments, main_of
from mmseg_kd.errors import ConfigError, nearest


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='mmseg-kd layers',
        description=__doc__,
        epilog="example: mmseg-kd layers CONFIG --side student --filter '*conv_seg'",
    )
    add_config_arguments(parser)
    parser.add_argument('--side', choices=['teacher', 'student'], help='one side; default: both')
    parser.add_argument('--filter', default='*', metavar='GLOB', help='only names that match')
    parser.add_argument(
        '--pair', action='store_true', help='print terms to paste into the config, each with why'
    )
    parser.add_argument(
        '--recipe', metavar='NAME', help='with --pair: the terms of a published method, such as cwd'
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from mmengine.registry import init_default_scope

    from mmseg_kd.analysis.layer_table import layer_table, layers_by_side
    from mmseg_kd.analysis.pairing import proposals_of, proposals_text
    from mmseg_kd.config.load import load_config

    init_default_scope('mmseg')
    cfg = load_config(args.config, args.cfg_options)
    if args.pair:
        if args.side or args.filter != '*':
            raise ConfigError('--pair looks at all of both sides: omit --side and --filter.')
        print(proposals_text(args.config, proposals_of(cfg, args.recipe)), end='')
        return 0
    if args.recipe:
        raise ConfigError('--recipe: goes with --pair.')
    found = layers_by_side(cfg)
    sides = [side for side in found if side.startswith(args.side or '')]
    if not sides:
        raise ConfigError(f'the config has no {args.side}; it has: {", ".join(found)}.')
    names = [layer.name for side in sides for layer in found[side]]
    if not any(fnmatch(name, args.filter) for name in names):
        raise ConfigError(f'no layer matches {args.filter!r}; {nearest(args.filter, names)}.')
    for side in sides:
        others = [layer for name, layers in found.items() if name != side for layer in layers]
        print(layer_table(side, found[side], others, args.filter), end='\n\n')
    return 0


main = main_of(_parser, run, log_level='WARNING')
