"""Plot the weights of a distillation's terms over the run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config

from mmseg_kd.analysis.schedule import draw_weights, mean_weights
from mmseg_kd.cli.common import add_config_arguments, run_command
from mmseg_kd.config.experiments import run_name
from mmseg_kd.config.load import load_config
from mmseg_kd.config.network_spec import is_distillation, parse_teachers
from mmseg_kd.config.term_spec import TermSpec, parse_terms
from mmseg_kd.errors import ConfigError, Problems


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='plot_schedule.py',
        description=__doc__,
        epilog='example: python tools/plot_schedule.py distillation_configs/example_config.py',
    )
    add_config_arguments(parser)
    parser.add_argument(
        '--out', help='picture, such as schedule.png or .svg; default: work_dirs/RUN/schedule.png'
    )
    return parser


def terms_of(cfg: Config) -> Sequence[TermSpec]:
    """The terms of a distillation, without their networks.

    Raises:
        ConfigError: The config is no distillation, has no terms, or one is wrong.
    """
    if not (is_distillation(cfg) and cfg.model.get('distillation')):
        raise ConfigError('expected a distillation with terms, got a config without any.')
    problems = Problems()
    names, _ = parse_teachers(cfg.model.get('teacher'), problems)
    specs = parse_terms(cfg.model.distillation, names, problems).specs
    problems.raise_if_any()
    return specs


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    cfg = load_config(args.config, args.cfg_options)
    max_iters = (cfg.get('train_cfg') or {}).get('max_iters')
    if not isinstance(max_iters, int) or max_iters < 1:
        raise ConfigError(f'expected train_cfg.max_iters >= 1 in the config, got {max_iters!r}.')
    name = run_name(args.config)
    path = Path(args.out) if args.out else Path('work_dirs') / name / 'schedule.png'
    iterations = range(max_iters)
    weights = {term.name: mean_weights(term, iterations) for term in terms_of(cfg)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_weights(weights, name, path)
    except (OSError, ValueError) as error:  # the second: an ending that matplotlib does not know
        raise ConfigError(f'--out {path}: {error}') from error
    for term, values in weights.items():
        on = [i for i, value in enumerate(values) if value > 0]
        span = f'from iteration {on[0]} to {on[-1]}' if on else 'never'
        print(f'{term}: weight up to {max(values):g}, above 0 {span}')
    print(f'Picture: {path}')
    return 0


def main(args: Sequence[str] | None = None) -> int:
    """Parse `args` (None: the command line) and plot; returns the exit code."""
    return run_command(_parser(), run, args)
