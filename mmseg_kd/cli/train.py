"""Train a network, or distil one."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import OPTIMIZERS

from mmseg_kd.cli.common import (
    add_config_arguments,
    add_run_arguments,
    build_runner,
    building,
    is_distillation,
    load_config,
    prepare_run,
    run_command,
    student_of,
)
from mmseg_kd.errors import ConfigError, DeviceError, KDError, nearest
from mmseg_kd.evaluation import use_fast_metrics, use_lean_prediction_in
from mmseg_kd.hooks import (
    IterationSeedHook,
    NonFiniteHook,
    RankZeroBuffersHook,
    StudentCheckpointHook,
)
from mmseg_kd.host import registered
from mmseg_kd.preflight import check_dataset


class Started(Hook):
    """Remembers whether the first iteration has begun: what fails before is the config's."""

    def __init__(self) -> None:
        self.begun = False

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self.begun = True


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='train.py',
        description=__doc__,
        epilog='example: python tools/train.py distillation_configs/example_config.py --amp',
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
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision')
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


def apply_options(cfg: Config, args: argparse.Namespace) -> None:
    """Put the options of this command into the config.

    Raises:
        ConfigError: The optimiser wrapper cannot be switched to mixed precision.
        DeviceError: Mixed precision without a device for it.
    """
    if args.resume is not None:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    if args.seed is not None or args.deterministic:
        randomness = dict(cfg.get('randomness') or {})
        if args.seed is not None:
            randomness['seed'] = args.seed
        if args.deterministic:
            randomness['deterministic'] = True
        cfg.randomness = randomness
    if args.amp:
        kind = cfg.optim_wrapper.get('type', 'OptimWrapper')
        if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
            raise ConfigError(
                f"--amp: expected optim_wrapper of type 'OptimWrapper', got {kind!r}; set mixed "
                'precision in the config.'
            )
        if not torch.cuda.is_available():
            raise DeviceError('--amp needs CUDA, and there is none here; leave --amp away.')
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


def check_optimizer(cfg: Config) -> None:
    """See that the optimiser's class exists: the host's own message does not name it.

    Raises:
        ConfigError: It does not.
    """
    kind = ((cfg.get('optim_wrapper') or {}).get('optimizer') or {}).get('type')
    if isinstance(kind, str) and OPTIMIZERS.get(kind) is None:
        raise ConfigError(
            f'optim_wrapper: there is no optimizer {kind!r}; '
            f'{nearest(kind, registered("optimizer"))}.'
        )


def train(args: argparse.Namespace) -> int:
    """Run the command."""
    cfg = load_config(args.config, args.cfg_options)
    check_optimizer(cfg)
    apply_options(cfg, args)
    if not args.plain_eval:
        use_fast_metrics(cfg)
    prepare_run(cfg, args)
    runner = build_runner(cfg)
    num_classes = getattr(student_of(runner.model), 'num_classes', None)
    for split in ('train', 'val'):
        loader = cfg.get(f'{split}_dataloader')
        if loader is not None and num_classes is not None:
            with building(f'{split} data'):
                check_dataset(loader['dataset'], split, num_classes)
    started = Started()
    runner.register_hook(started, priority='VERY_HIGH')
    runner.register_hook(IterationSeedHook())
    runner.register_hook(RankZeroBuffersHook())
    if not any(isinstance(hook, NonFiniteHook) for hook in runner.hooks):
        runner.register_hook(NonFiniteHook())
    if is_distillation(cfg) and not any(isinstance(h, StudentCheckpointHook) for h in runner.hooks):
        runner.register_hook(StudentCheckpointHook())
    if not args.plain_eval:
        use_lean_prediction_in(runner)
    try:
        runner.train()
    except KDError:
        raise
    except Exception:
        if started.begun:
            raise
        with building('config'):
            raise
    return 0


def main(args: Sequence[str] | None = None) -> int:
    """Parse `args` (None: the command line) and train; returns the exit code."""
    return run_command(_parser(), train, args)
