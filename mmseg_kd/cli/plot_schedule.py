"""Plot the weights of a distillation's terms over the run."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmseg_kd.cli.common import add_config_arguments, main_of
from mmseg_kd.errors import ConfigError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='mmseg-kd schedule',
        description=__doc__,
        epilog='example: mmseg-kd schedule mmseg_kd::distillation_configs/example_config.py',
    )
    add_config_arguments(parser)
    parser.add_argument(
        '--out', help='picture, such as schedule.png or .svg; default: work_dirs/RUN/schedule.png'
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from mmseg_kd.analysis.schedule import draw_weights, label_of, mean_weights, terms_of
    from mmseg_kd.config.experiments import run_name
    from mmseg_kd.config.load import load_config

    cfg = load_config(args.config, args.cfg_options)
    max_iters = (cfg.get('train_cfg') or {}).get('max_iters')
    if not isinstance(max_iters, int) or max_iters < 1:
        raise ConfigError(f'expected train_cfg.max_iters >= 1 in the config, got {max_iters!r}.')
    name = run_name(args.config)
    path = Path(args.out) if args.out else Path('work_dirs') / name / 'schedule.png'
    iterations = range(max_iters)
    weights = {label_of(term): mean_weights(term, iterations) for term in terms_of(cfg)}
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


main = main_of(_parser, run)
