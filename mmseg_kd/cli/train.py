"""Train a network, or distil one."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmseg.registry import MODELS

from mmseg_kd.cli.common import (
    add_config_arguments,
    add_run_arguments,
    build_runner,
    building,
    is_distillation,
    load_config,
    prepare_run,
    run_command,
)
from mmseg_kd.cli.survival import (
    log_without_room,
    resume_from_whole,
    stop_on_signals,
    use_durable_checkpoints,
)
from mmseg_kd.errors import ConfigError, DeviceError, KDError, Problems
from mmseg_kd.evaluation import use_fast_metrics, use_lean_prediction_in
from mmseg_kd.hooks import (
    BadDataHook,
    ExactResumeHook,
    IterationSeedHook,
    NonFiniteHook,
    RankZeroBuffersHook,
    StudentCheckpointHook,
)
from mmseg_kd.network import student_of
from mmseg_kd.preflight import check_dataset
from mmseg_kd.ranks import leave_together
from mmseg_kd.runner_config import check_runner_config


class Started(Hook):
    """Remembers whether training has begun, with an iteration or with a validation that was due.

    What fails before is the config's.
    """

    def __init__(self) -> None:
        self.begun = False

    def before_val(self, runner: Runner) -> None:
        self.begun = True

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
            # Without it DDP sorts its buckets anew after the first iteration of a process, so that
            # three ranks or more add up a resumed run's gradients in another order.
            cfg.setdefault('find_unused_parameters', True)
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


def check_config(cfg: Config) -> None:
    """See that all that a training is made of can be looked up.

    Where it cannot, the networks are built too, so that what is wrong with them is said at once.

    Raises:
        ConfigError: It cannot; `ManyErrors` where that is more than one.
    """
    problems = Problems()
    with problems:
        check_runner_config(cfg, ['train', 'val'])
    if problems.errors and not any(str(error).startswith('model:') for error in problems.errors):
        init_default_scope('mmseg')
        with problems, building('model'):
            MODELS.build(cfg.model)
    problems.raise_if_any()


def train(args: argparse.Namespace) -> int:
    """Run the command."""
    cfg = load_config(args.config, args.cfg_options)
    check_config(cfg)
    apply_options(cfg, args)
    if not args.plain_eval:
        use_fast_metrics(cfg)
    use_durable_checkpoints(cfg)
    prepare_run(cfg, args)
    runner = build_runner(cfg)
    resume_from_whole(runner)
    num_classes = getattr(student_of(runner.model), 'num_classes', None)
    bad_data = BadDataHook.of(runner)
    for split, tolerated in (('train', bad_data.max_skipped), ('val', 0)):
        loader = cfg.get(f'{split}_dataloader')
        if loader is not None and num_classes is not None:
            with building(f'{split} data'):
                check_dataset(loader['dataset'], split, num_classes, tolerated)
    started = Started()
    runner.register_hook(started, priority='VERY_HIGH')
    runner.register_hook(IterationSeedHook())
    runner.register_hook(RankZeroBuffersHook())
    runner.register_hook(ExactResumeHook())
    if not any(isinstance(hook, NonFiniteHook) for hook in runner.hooks):
        runner.register_hook(NonFiniteHook())
    stopping = stop_on_signals(runner)
    log_without_room(runner)
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
    finally:
        if stopping is not None:
            stopping.restore()
    leave_together()
    return 0


def main(args: Sequence[str] | None = None) -> int:
    """Parse `args` (None: the command line) and train; returns the exit code."""
    return run_command(_parser(), train, args)
