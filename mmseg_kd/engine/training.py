"""From a config to a trained network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmseg.registry import DATASETS, MODELS

from mmseg_kd.checkpoints.newest import POINTER
from mmseg_kd.config.network_spec import is_distillation, teacher_label, teachers_of
from mmseg_kd.config.runner import check_runner_config
from mmseg_kd.data_checks.batches import check_batches, check_preprocessor
from mmseg_kd.data_checks.class_order import check_class_order
from mmseg_kd.data_checks.heads import check_heads, heads_of
from mmseg_kd.data_checks.loading import leaf
from mmseg_kd.data_checks.preflight import check_dataset
from mmseg_kd.data_checks.without_masks import warn_of_images_without_masks
from mmseg_kd.distillation import DistillationWrapper
from mmseg_kd.distillation.class_map import class_names
from mmseg_kd.distillation.term import Term
from mmseg_kd.engine.runner import build_runner, prepare_run
from mmseg_kd.engine.survival import (
    keep_logging_aside,
    resume_from_intact,
    stop_on_signals,
    use_durable_checkpoints,
)
from mmseg_kd.errors import ConfigError, KDError, Problems
from mmseg_kd.evaluation import use_fast_metrics, use_lean_prediction_in
from mmseg_kd.hooks import (
    BadDataHook,
    ExactResumeHook,
    GradientNormHook,
    InitialWeightsHook,
    IterationSeedHook,
    NonFiniteHook,
    ProgressHook,
    RankZeroBuffersHook,
    SameRunHook,
    StopSignalHook,
    StudentCheckpointHook,
    ValidationPicturesHook,
)
from mmseg_kd.hooks.find import find_hooks, get_or_add_hook
from mmseg_kd.host.device import find_device
from mmseg_kd.host.loaders import end_workers
from mmseg_kd.host.log_names import MEAN_PATTERN
from mmseg_kd.host.quiet import as_config_error
from mmseg_kd.losses.logit_loss import LogitLoss
from mmseg_kd.networks.build import student_of, unwrapped

# What every run is watched by, in the order in which they are added.
RUN_HOOKS = (
    InitialWeightsHook,
    SameRunHook,
    IterationSeedHook,
    RankZeroBuffersHook,
    ExactResumeHook,
    NonFiniteHook,
    GradientNormHook,
    ValidationPicturesHook,
    ProgressHook,
)


@dataclass(frozen=True)
class TrainingOptions:
    """How a config is trained; what is left as it is here is as the config says.

    Attributes:
        resume: A checkpoint to go on from; True: the newest whole one in the work dir.
        amp: Mixed precision: float16 on a GPU, bfloat16 on a CPU.
        seed: Of all random generators.
        deterministic: Deterministic algorithms where there are any.
        allow_changes: Resume even if networks, terms, teachers or optimiser are others.
        plain_eval: Validate with mmseg's own prediction, scores kept, and metric.
        device: As in `prepare_run`.
        launcher: What started the ranks, as mmengine calls it; 'none': this is the only one.
    """

    resume: bool | str | Path = False
    amp: bool = False
    seed: int | None = None
    deterministic: bool = False
    allow_changes: bool = False
    plain_eval: bool = False
    device: str = 'auto'
    launcher: str = 'none'


class Started(Hook):
    """Remembers whether training has begun, with an iteration or with a validation that was due.

    What fails before is the config's.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self.begun = False

    def before_val(self, runner: Runner) -> None:
        self.begun = True

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self.begun = True


def prepare_training(
    cfg: Config, options: TrainingOptions, runner_type: type[Runner] = Runner
) -> Runner:
    """The runner of a config with all that a run is watched by; the data have been looked at.

    Args:
        cfg: Is changed to what is run.
        options: Changes to it.
        runner_type: The runner's class.

    Raises:
        KDError: Whatever is wrong with config, data, checkpoints and devices.
    """
    check_config(cfg)
    apply_options(cfg, options)
    name_classes(cfg)
    log_means_of_terms(cfg)
    if not options.plain_eval:
        use_fast_metrics(cfg)
    use_durable_checkpoints(cfg)
    prepare_run(cfg, options.device, options.launcher)
    runner = build_runner(cfg, runner_type)
    resume_from_intact(runner)
    if not runner._resume and Path(runner.work_dir, POINTER).exists():
        runner.logger.warning(
            f'{runner.work_dir} has checkpoints of another training, which begins anew here and '
            'takes the place of its student_best.pth. --resume goes on with it, --work-dir names '
            'another folder.'
        )
    student = student_of(runner.model)
    if cfg.get('val_cfg') is not None and getattr(student, 'test_cfg', dict()) is None:
        raise ConfigError(
            "model: expected test_cfg=dict(mode='whole') in the network that is trained, without "
            'which mmseg cannot validate it; got none.'
        )
    check_data(runner)
    get_or_add_hook(runner, Started)
    for kind in RUN_HOOKS:
        get_or_add_hook(runner, kind)
        if (count := len(find_hooks(runner, kind))) > 1:
            raise ConfigError(
                f'custom_hooks: {kind.__name__} is there {count} times, and a run has one; change '
                "the base's entry, or leave the other out."
            )
    if options.allow_changes:
        get_or_add_hook(runner, SameRunHook).allow_changes = True
    stop_on_signals(runner)
    keep_logging_aside(runner)
    if is_distillation(cfg):
        get_or_add_hook(runner, StudentCheckpointHook)
    if not options.plain_eval:
        use_lean_prediction_in(runner)
    return runner


def check_data(runner: Runner) -> None:
    """See that network and data fit, before the first batch.

    Raises:
        KDError: They do not; `ManyErrors` where that shows in more than one place.
    """
    cfg, student = runner.cfg, student_of(runner.model)
    preprocessor = unwrapped(runner.model).data_preprocessor
    num_classes = getattr(student, 'num_classes', None)
    heads = heads_of(student)
    tolerated = get_or_add_hook(runner, BadDataHook).max_skipped
    problems = Problems()
    with problems:
        check_heads(student, 'student' if is_distillation(cfg) else 'model')
    with problems:
        check_preprocessor(preprocessor)
    for split in ('train', 'val'):
        loader = cfg.get(f'{split}_dataloader')
        if loader is None or num_classes is None:
            continue
        with problems, as_config_error(f'{split} data'):
            of_split = (tolerated, heads) if split == 'train' else (0, None)
            dataset = check_dataset(loader['dataset'], split, num_classes, *of_split)
            check_batches(dataset, split, loader, preprocessor, of_split[1])
            if split == 'train':
                check_class_order(_scoring_teachers(runner), dataset.metainfo.get('classes') or ())
                terms = getattr(unwrapped(runner.model), 'terms', {}).values()
                compared = any(getattr(term, 'compares_scores', False) for term in terms)
                warn_of_images_without_masks(dataset, compared)
    problems.raise_if_any()


def _scoring_teachers(runner: Runner) -> dict[str, Sequence[str]]:
    """Names of the classes of the teachers whose scores are compared as they are."""
    model = unwrapped(runner.model)
    if not (isinstance(model, DistillationWrapper) and model.teachers):
        return {}
    names, specs = teachers_of(runner.cfg)
    compared = {
        name
        for term in model.terms.values()
        if isinstance(term, Term) and isinstance(term.loss, LogitLoss)
        for name in term.layers.teachers
        if name in model.teachers and specs[name].class_map is None
    }
    found = {
        teacher_label(name, len(names)): class_names(
            model.teachers[name], specs[name].classes, checkpoint=None
        )
        for name in compared
    }
    return {label: classes for label, classes in found.items() if classes}


def run_training(runner: Runner) -> None:
    """Train to the end, or until a signal; signals and terminal are then as they were before.

    Raises:
        KDError: What is wrong with the config and shows only now.
        SystemExit: A signal ended the training; there is a checkpoint to resume from.
    """
    try:
        runner.train()
    except KDError:
        raise
    except Exception:
        if get_or_add_hook(runner, Started).begun:
            raise
        with as_config_error('config'):
            raise
    finally:
        for hook in find_hooks(runner, StopSignalHook):
            hook.restore()
        for display in find_hooks(runner, ProgressHook):
            display.close()
        end_workers(runner)


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
        with problems, as_config_error('model'):
            MODELS.build(cfg.model)
    problems.raise_if_any()


def name_classes(cfg: Config) -> None:
    """Tell the student the names of its classes, where a teacher's `class_map` may use them."""
    if not is_distillation(cfg) or cfg.model.student.get('classes') is not None:
        return
    _, teachers = teachers_of(cfg)
    if not any(spec.class_map for spec in teachers.values()):
        return
    dataset = leaf(cfg.train_dataloader.dataset)
    of_kind = getattr(DATASETS.get(dataset.get('type')), 'METAINFO', {})
    names = {**of_kind, **(dataset.get('metainfo') or {})}.get('classes')
    if names is not None:
        cfg.model.student.classes = list(names)


def log_means_of_terms(cfg: Config) -> None:
    """Have the terms logged as losses are, as means, where the config does not say what is."""
    processor = dict(cfg.get('log_processor') or {})
    if processor.get('type', 'LogProcessor') == 'LogProcessor':
        cfg.log_processor = dict(mean_pattern=MEAN_PATTERN) | processor


def apply_options(cfg: Config, options: TrainingOptions) -> None:
    """Put the options into the config, but for those of `prepare_run`.

    Raises:
        ConfigError: The optimiser wrapper cannot be switched to mixed precision.
        DeviceError: There is no such device.
    """
    if options.resume:
        cfg.resume = True
        cfg.load_from = None if options.resume is True else str(options.resume)
    if options.seed is not None or options.deterministic:
        randomness = dict(cfg.get('randomness') or {})
        if options.seed is not None:
            randomness['seed'] = options.seed
        if options.deterministic:
            randomness['deterministic'] = True
            # Without it DDP sorts its buckets anew after the first iteration of a process, so that
            # three ranks or more add up a resumed run's gradients in another order.
            cfg.setdefault('find_unused_parameters', True)
        cfg.randomness = randomness
    if options.amp:
        _use_mixed_precision(cfg.optim_wrapper, find_device(options.device).type)


def _use_mixed_precision(wrapper: Any, device: str) -> None:
    """Switch an optimiser's wrapper to float16 on a GPU, and on a CPU to bfloat16."""
    kind = wrapper.get('type', 'OptimWrapper')
    if kind == 'BFloat16OptimWrapper':
        return
    if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise ConfigError(
            f"--amp: expected optim_wrapper of type 'OptimWrapper', got {kind!r}; set mixed "
            'precision in the config.'
        )
    if device == 'cuda':
        wrapper.type = 'AmpOptimWrapper'
        wrapper.setdefault('loss_scale', 'dynamic')
        return
    wrapper.type = 'BFloat16OptimWrapper'
    for key in ('loss_scale', 'dtype', 'use_fsdp'):  # of AmpOptimWrapper
        wrapper.pop(key, None)
