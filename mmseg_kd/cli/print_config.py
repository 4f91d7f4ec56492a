"""Print a config with its bases and options as one file.

What is printed is itself a config, and loads to the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmseg_kd.cli.common import add_config_arguments, run_command
from mmseg_kd.config.load import load_config
from mmseg_kd.config.network_spec import is_distillation, parse_network
from mmseg_kd.config.text import write
from mmseg_kd.errors import ConfigError, Problems


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='print_config.py',
        description=__doc__,
        epilog='example: python tools/print_config.py distillation_configs/example_config.py '
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


def resolved(model: Mapping[str, Any]) -> dict[str, Any]:
    """A distillation's model with each network in the place of the config that it names.

    Raises:
        ConfigError: A network cannot be read; `ManyErrors` where that is more than one.
    """
    problems = Problems()

    def resolve(network: Any, side: str, is_teacher: bool) -> Any:
        with problems:
            own = {k: v for k, v in network.items() if k not in ('config', 'cfg_options')}
            # The name of one of several teachers is read elsewhere.
            unnamed = {k: v for k, v in network.items() if k != 'name'}
            spec = parse_network(unnamed, side, is_teacher)
            return {**own, **spec.model.to_dict()}
        return network

    whole = dict(model)
    teacher = whole.get('teacher')
    if isinstance(teacher, list | tuple):
        whole['teacher'] = [resolve(t, f'teacher[{i}]', True) for i, t in enumerate(teacher)]
    elif teacher is not None:
        whole['teacher'] = resolve(teacher, 'teacher', True)
    whole['student'] = resolve(whole.get('student') or {}, 'student', False)
    problems.raise_if_any()
    return whole


def run(args: argparse.Namespace) -> int:
    """Run the command."""
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


def main(args: Sequence[str] | None = None) -> int:
    """Parse `args` (None: the command line) and print; returns the exit code."""
    return run_command(_parser(), run, args)
