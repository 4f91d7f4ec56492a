"""From a config and a checkpoint to the scores on the test or the validation split."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

from mmengine.config import Config
from mmengine.runner import Runner

from mmseg_kd.checkpoints import load_weights
from mmseg_kd.config.input_scaling import InputScaling
from mmseg_kd.config.network_spec import teacher_of, trained_network_of
from mmseg_kd.config.runner import check_runner_config
from mmseg_kd.data_checks.preflight import check_dataset
from mmseg_kd.engine.runner import build_runner, prepare_run
from mmseg_kd.errors import CheckpointError, ConfigError
from mmseg_kd.evaluation import use_fast_metrics, use_lean_prediction_in
from mmseg_kd.evaluation.labels import scale_images
from mmseg_kd.evaluation.switch import metrics_of
from mmseg_kd.hooks import BadDataHook
from mmseg_kd.hooks.find import get_or_add_hook
from mmseg_kd.host.loaders import end_workers
from mmseg_kd.host.quiet import as_config_error
from mmseg_kd.networks.build import student_of, without_initialisation
from mmseg_kd.teacher.fused_attention import use_fused_attention


@dataclass(frozen=True)
class MeasuringOptions:
    """What of a config is measured, and how.

    Attributes:
        teacher: The teacher of this name in the place of the trained network; '': the only one.
        split: 'test', or 'val' for the images of validation.
        tta: Test-time augmentation.
        out: Folder for the predicted masks.
        show_dir: Folder for painted images.
        plain_eval: mmseg's own prediction, scores kept, and metric.
        fused_attention: Attention without its weights.
        device, launcher: As in `prepare_run`.
    """

    teacher: str | None = None
    split: Literal['test', 'val'] = 'test'
    tta: bool = False
    out: str | None = None
    show_dir: str | None = None
    plain_eval: bool = False
    fused_attention: bool = False
    device: str = 'auto'
    launcher: str = 'none'


def prepare_test(cfg: Config, checkpoint: str | None, options: MeasuringOptions) -> Runner:
    """The runner of a config's test or validation split, with the weights in its network.

    Args:
        cfg: Is changed to what is run.
        checkpoint: Of a distillation or of the network alone; None: the one that the config has
            for the teacher.
        options: What is measured, and how.

    Raises:
        KDError: Whatever is wrong with config, checkpoint and device.
    """
    if options.split == 'val':
        _test_on_validation(cfg)
    check_runner_config(cfg, ['test'])
    is_teacher = options.teacher is not None
    spec = teacher_of(cfg, options.teacher or None) if is_teacher else trained_network_of(cfg)
    checkpoint = checkpoint or (spec.checkpoint if is_teacher else None)
    # A checkpoint has all weights; nothing is fetched that it would overwrite.
    cfg.model = spec.model if checkpoint is None else without_initialisation(spec.model)
    cfg.load_from, cfg.resume = None, False
    _apply_options(cfg, options)
    prepare_run(cfg, options.device, options.launcher)
    if not options.plain_eval:
        use_fast_metrics(cfg)
    runner = build_runner(cfg)
    network: Any = student_of(runner.model)
    network = getattr(network, 'module', network)  # inside test-time augmentation
    if checkpoint is not None:
        report = load_weights(network, checkpoint)
        if report.missing or report.mismatched:
            raise CheckpointError(f'{report}\nGive the checkpoint of this very network.')
        runner.logger.info(str(report))
    elif not getattr(network, 'is_pretrained', False):
        raise CheckpointError('expected a checkpoint as the second argument, got none.')
    if is_teacher and spec.scaling != InputScaling():
        scale_images(network, spec.scaling)
    if options.fused_attention and not use_fused_attention(network):
        raise ConfigError('--fused-attention: the network has no attention that this is for.')
    if not options.plain_eval:
        use_lean_prediction_in(runner)
    with as_config_error('test data'):
        check_dataset(cfg.test_dataloader['dataset'], options.split, network.num_classes)
        get_or_add_hook(runner, BadDataHook)
    return runner


def run_test(runner: Runner) -> None:
    """Measure.

    Raises:
        KDError: What is wrong with the data and shows only now.
    """
    try:
        with as_config_error('test data'):
            runner.test()
    finally:
        end_workers(runner)


def _test_on_validation(cfg: Config) -> None:
    for part in ('dataloader', 'evaluator'):
        if cfg.get(f'val_{part}') is None:
            raise ConfigError(f'--split val: expected val_{part} in the config, which has none.')
        cfg[f'test_{part}'] = deepcopy(cfg[f'val_{part}'])
    cfg.test_cfg = cfg.get('test_cfg') or dict(type='TestLoop')


def _apply_options(cfg: Config, options: MeasuringOptions) -> None:
    if options.show_dir:
        drawing = dict(type='SegVisualizationHook', draw=True)
        cfg.default_hooks = {**(cfg.get('default_hooks') or {}), 'visualization': drawing}
        own = cfg.get('visualizer') or dict(
            type='SegLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')]
        )
        cfg.visualizer = {**own, 'save_dir': options.show_dir}
    if options.out:
        for metric in metrics_of(cfg.test_evaluator):
            metric['output_dir'] = options.out
    if options.tta:
        if 'tta_pipeline' not in cfg or 'tta_model' not in cfg:
            raise ConfigError('--tta: expected tta_pipeline and tta_model in the config.')
        cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
        cfg.model = dict(**cfg.tta_model, module=cfg.model)
