"""Measure a network on the test split of a config: mIoU, mAcc, aAcc and every class."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from mmengine.config import Config

from mmseg_kd.checkpoints import load_weights
from mmseg_kd.cli.common import (
    add_config_arguments,
    add_run_arguments,
    place_run,
    run_command,
    teacher_of,
)
from mmseg_kd.config.load import load_config
from mmseg_kd.config.network_spec import trained_network_of
from mmseg_kd.config.runner import check_runner_config
from mmseg_kd.data_checks.preflight import check_dataset
from mmseg_kd.engine.runner import build_runner, prepare_run
from mmseg_kd.errors import CheckpointError, ConfigError
from mmseg_kd.evaluation import use_fast_metrics, use_lean_prediction_in
from mmseg_kd.hooks import BadDataHook
from mmseg_kd.hooks.find import get_or_add_hook
from mmseg_kd.host.quiet import as_config_error
from mmseg_kd.networks.build import student_of, without_initialisation
from mmseg_kd.teacher.fused_attention import use_fused_attention


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='test.py',
        description=__doc__,
        epilog='example: python tools/test.py CONFIG work_dirs/NAME/iter_160000.pth --tta',
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


def test(args: argparse.Namespace) -> int:
    """Run the command."""
    cfg = load_config(args.config, args.cfg_options)
    check_runner_config(cfg, ['test'])
    is_teacher = args.teacher is not None
    spec = teacher_of(cfg, args.teacher or None) if is_teacher else trained_network_of(cfg)
    checkpoint = args.checkpoint or (spec.checkpoint if is_teacher else None)
    if checkpoint is None:
        raise CheckpointError('expected a checkpoint as the second argument, got none.')
    # The checkpoint has all weights; nothing is fetched that it would overwrite.
    cfg.model = without_initialisation(spec.model)
    cfg.load_from = None
    _apply_options(cfg, args)
    place_run(cfg, args)
    prepare_run(cfg, args.device, args.launcher)
    if not args.plain_eval:
        use_fast_metrics(cfg)
    runner = build_runner(cfg)
    network: Any = student_of(runner.model)
    network = getattr(network, 'module', network)  # inside test-time augmentation
    report = load_weights(network, checkpoint)
    runner.logger.info(str(report))
    if args.fused_attention and not use_fused_attention(network):
        raise ConfigError('--fused-attention: the network has no attention that this is for.')
    if not args.plain_eval:
        use_lean_prediction_in(runner)
    with as_config_error('test data'):
        check_dataset(cfg.test_dataloader['dataset'], 'test', network.num_classes)
        get_or_add_hook(runner, BadDataHook)
        runner.test()
    return 0


def _apply_options(cfg: Config, args: argparse.Namespace) -> None:
    if args.show_dir:
        cfg.default_hooks.visualization = dict(type='SegVisualizationHook', draw=True)
        cfg.visualizer.save_dir = args.show_dir
    if args.out:
        cfg.test_evaluator.output_dir = args.out
    if args.tta:
        if 'tta_pipeline' not in cfg or 'tta_model' not in cfg:
            raise ConfigError('--tta: expected tta_pipeline and tta_model in the config.')
        cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
        cfg.model = dict(**cfg.tta_model, module=cfg.model)


def main(args: Sequence[str] | None = None) -> int:
    """Parse `args` (None: the command line) and test; returns the exit code."""
    return run_command(_parser(), test, args)
