"""Distillation as a function: what `mmseg-kd train` does, for notebooks and scripts."""

from __future__ import annotations

import gc
import logging
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner
from numpy.typing import NDArray
from torch import nn

import mmseg_kd.register  # noqa: F401  what configs name
from mmseg_kd.checkpoints.trust import checkpoint_trust, checkpoints_are_trusted
from mmseg_kd.config.network_spec import trained_network_of
from mmseg_kd.data_checks.loading import leaf
from mmseg_kd.engine.arguments import (
    data_config,
    model_config,
    run_config,
    runtime_config,
    schedule_config,
    to_builtins,
)
from mmseg_kd.engine.from_folder import ITERATIONS, check_untrained, from_folder
from mmseg_kd.engine.isolation import isolated
from mmseg_kd.engine.training import TrainingOptions, prepare_training, run_training
from mmseg_kd.errors import ConfigError, Problems
from mmseg_kd.hooks import DurableCheckpointHook, StopSignalHook, StudentCheckpointHook
from mmseg_kd.hooks.find import find_hook, find_hooks
from mmseg_kd.hooks.stop_signal_hook import Stopped
from mmseg_kd.host.device import find_device
from mmseg_kd.host.log_names import TRAIN_PREFIX, VAL_PREFIX
from mmseg_kd.networks.build import student_of

# Entry of the message hub, which goes into the checkpoint. The host logs all entries whose names
# begin with 'val'.
_VALIDATIONS = 'all_validations'

Curve = tuple[NDArray[np.int64], NDArray[np.float64]]


@dataclass(frozen=True)
class Distilled:
    """What `distill` returns.

    Attributes:
        student: The student after the last iteration, in eval mode, on the device it was trained
            on. mmseg's `inference_model(student, 'image.jpg')` predicts with it where there were
            validation data, whose pipeline it takes. It can be the teacher or the student of
            another `distill`.
        metrics: Of the last validation, in percent; empty without validation data.
        history: Curves by name: the iterations, from 1, and the values. 'train/loss',
            'train/kd.NAME' (a weighted term), 'train/kd_weight.NAME' and 'train/lr' of every
            iteration, 'val/mIoU' of every validation.
        work_dir: Where logs and checkpoints are.
        config: The config of the run, which `mmseg-kd train` and `mmseg-kd test` take.
        checkpoint: The last checkpoint of the run, to resume from; None where there is none.
        best: The student of the best validation, as stock mmseg loads it; None without one.
    """

    student: nn.Module = field(repr=False)
    metrics: Mapping[str, float]
    history: Mapping[str, Curve] = field(repr=False)
    work_dir: Path
    config: Path
    checkpoint: Path | None
    best: Path | None


def distill(
    *,
    student: str | Path | Mapping[str, Any] | Config | nn.Module,
    data: str | Path | Mapping[str, Any] | Config,
    teacher: str | Path | Mapping[str, Any] | Config | nn.Module | Sequence[Any] | None = None,
    terms: Sequence[Mapping[str, Any]] = (),
    teacher_checkpoint: str | Path | None = None,
    iterations: int | None = None,
    lr: float | None = None,
    optimizer: Mapping[str, Any] | None = None,
    val_interval: int | None = None,
    schedule: str | Path | Mapping[str, Any] | Config | None = None,
    work_dir: str | Path | None = None,
    seed: int | None = None,
    device: str = 'auto',
    amp: bool = False,
    resume: bool | str | Path = False,
    cfg_options: Mapping[str, Any] | None = None,
) -> Distilled:
    """Train a student with terms that compare it with a teacher; without terms, train it alone.

    This is `mmseg-kd train` as a function: the same checks before the first iteration, the same
    runner, the same files in the work dir. It runs in one process and leaves that process as it
    was: random state, signals, mmengine's loggers and default scope. On Ctrl-C (in a notebook:
    interrupt) it finishes the iteration, writes a checkpoint and raises `KeyboardInterrupt`;
    `resume=True` with the same `work_dir` goes on from there.

    Args:
        student: A config's path, `'mmseg::...'`, the work dir of a finished run, a dict as in
            configs (`config=...` with `cfg_options=...` and `checkpoint=...`, or a model with
            `type=...`), a Config, or a
            network that knows its config, such as mmseg's `init_model` makes: it is left alone,
            and a student of its weights is trained.
        data: `train_dataloader`, and `val_dataloader` with `val_evaluator`, as in mmseg: a dict of
            these, a config that has them, or its path. Or a folder of images and masks, as
            `mmseg-kd init` takes it, with the names of the classes in its classes.txt.
        teacher: As the student; a list of them for several. Needed where there are terms. With a
            folder as data both may be a word as in `mmseg-kd init`: 'mobilenetv2', 'hf:NAME', the
            work dir of a run; a teacher that is not trained on such data then is, first, in
            `work_dir/teacher`, unless `teacher_checkpoint` has its weights. Any other nn.Module
            that maps images to score maps is one too: it is left alone, and saved in `work_dir`, so
            that the run can be repeated.
        terms: Dicts as in `distillation` of a config: `student_layer`, `teacher_layer`, `loss`,
            and optionally `weight`, `schedule`, `connector`, `name`. None with a folder and words:
            one between the class scores, as `mmseg-kd init` proposes it.
        teacher_checkpoint: The teacher's weights, where `teacher` does not say.
        iterations: How many, >= 1; None, with a folder: 20000.
        lr: The highest learning rate, > 0; None: the optimiser's, 6e-5 for AdamW.
        optimizer: `dict(type='SGD', lr=...)`; None: AdamW as SegFormer uses it, with ten times
            the learning rate in the head. The rate rises for a twentieth of the run and falls
            linearly to 0.
        val_interval: Iterations from one validation and checkpoint to the next; None: a tenth of
            the run.
        schedule: A config with `optim_wrapper`, `param_scheduler` and `train_cfg`, in the place of
            the four arguments above.
        work_dir: For logs and checkpoints; None: a new folder in `work_dirs`.
        seed: Of all random generators; None: a new one each time.
        device: 'cpu', 'cuda' or 'cuda:1', which must be there; 'auto': a GPU where there is one,
            else the CPU.
        amp: Mixed precision: float16 on a GPU, bfloat16 on a CPU.
        resume: True: go on from the newest whole checkpoint in `work_dir`; or from this file.
        cfg_options: Changes to the config by dotted names, such as
            `{'model.teacher.autocast': 'bfloat16'}`.

    Returns:
        The student, its metrics and curves, and where the files are.

    Raises:
        KDError: What is wrong with the arguments, the data or the checkpoints, all at once where
            there is more than one thing (`ManyErrors`).
        KeyboardInterrupt: It was interrupted.

    Example:
        >>> import mmseg_kd
        >>> from mmseg_kd.datasets.toy_scenes.dataset import generate
        >>> generate('data/scenes', train=8, val=4, size=(64, 64))
        >>> def scenes(split, *augmentations):
        ...     load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
        ...     folders = dict(img_path=f'images/{split}', seg_map_path=f'annotations/{split}')
        ...     return dict(
        ...         type='ToyScenesDataset',
        ...         data_root='data/scenes',
        ...         data_prefix=folders,
        ...         pipeline=[*load, *augmentations, dict(type='PackSegInputs')])
        >>> data = dict(
        ...     train_dataloader=dict(
        ...         batch_size=4,
        ...         sampler=dict(type='InfiniteSampler', shuffle=True),
        ...         dataset=scenes('training', dict(type='RandomFlip', prob=0.5))),
        ...     val_dataloader=dict(batch_size=1, dataset=scenes('validation')),
        ...     val_evaluator=dict(type='IoUMetric', iou_metrics=['mIoU']))
        >>> def segformer(width):
        ...     return dict(
        ...         config='mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py',
        ...         cfg_options={
        ...             'model.data_preprocessor.size': (64, 64),
        ...             'model.backbone.embed_dims': width,
        ...             'model.backbone.init_cfg': None,
        ...             'model.decode_head.in_channels': [width, 2 * width, 5 * width, 8 * width],
        ...             'model.decode_head.num_classes': 12})
        >>> teacher = mmseg_kd.distill(student=segformer(32), data=data, iterations=2)
        >>> result = mmseg_kd.distill(
        ...     teacher=teacher.student,
        ...     student=segformer(8),
        ...     terms=[dict(
        ...         student_layer='decode_head.conv_seg',
        ...         teacher_layer='decode_head.conv_seg',
        ...         loss=dict(type='CGDLoss', group_size=3, tau=2.0),
        ...         weight=3.0,
        ...         name='cgd')],
        ...     data=data,
        ...     iterations=2)
        >>> sorted(result.metrics)
        ['aAcc', 'mAcc', 'mIoU']
        >>> iterations, values = result.history['train/kd.cgd']
        >>> len(values)
        2
    """
    if torch.distributed.is_initialized():
        raise ConfigError(
            'distill runs in one process, and torch.distributed is in use here; several processes '
            'train with mmseg-kd launch.'
        )
    find_device(device)
    if resume is True and work_dir is None:
        raise ConfigError('resume=True: expected the work_dir of the run that is to go on.')
    folder = _new_folder() if work_dir is None else Path(work_dir)
    if isinstance(data, str | Path) and Path(data).is_dir():
        with isolated():
            found = from_folder(data, teacher, student, terms, folder / 'data')
        if iterations is None and schedule is None:
            iterations = ITERATIONS
        data, teacher, student, terms = found.data, found.teacher, found.student, found.terms
        if found.trains_teacher and teacher_checkpoint is None:
            done, taught = folder / 'teacher.pth', folder / 'teacher'
            if resume and done.is_file():
                teacher = dict(found.teacher, checkpoint=str(done))
            else:
                with isolated():
                    check_untrained(found.teacher, student, terms)
                teacher = distill(
                    student=found.teacher,
                    data=data,
                    iterations=iterations,
                    lr=lr,
                    optimizer=optimizer,
                    val_interval=val_interval,
                    schedule=schedule,
                    work_dir=taught,
                    seed=seed,
                    device=device,
                    amp=amp,
                    resume=bool(resume) and taught.is_dir(),
                ).student
    options = TrainingOptions(resume=resume, amp=amp, seed=seed, device=device)
    with isolated(), checkpoint_trust(checkpoints_are_trusted()):
        problems = Problems()
        parts: list[Mapping[str, Any]] = [runtime_config()]
        with problems:
            parts.append(data_config(data))
        with problems:
            parts.append(schedule_config(schedule, iterations, lr, optimizer, val_interval))
        with problems:
            model = model_config(teacher, student, terms, teacher_checkpoint, folder)
            parts.append(dict(model=model, work_dir=str(folder)))
        problems.raise_if_any()
        cfg = run_config(*parts, options=to_builtins(cfg_options), file=folder / 'config.py')
        try:
            result = _train(cfg, options)
        finally:
            gc.collect()  # a runner and its networks hold each other
    if isinstance(result, Stopped):
        _interrupt(result)
    assert isinstance(result, Distilled)
    return result


def _new_folder() -> Path:
    name = f'distill_{time.strftime("%Y%m%d_%H%M%S")}'
    folder, count = Path('work_dirs', name), 1
    while True:
        with suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
        count += 1
        folder = Path('work_dirs', f'{name}_{count}')


def _train(cfg: Config, options: TrainingOptions) -> Distilled | Stopped:
    runner = prepare_training(cfg, options, QuietRunner)
    runner.register_hook(_Validations())
    for hook in find_hooks(runner, StopSignalHook):
        hook.owns_process = False
    try:
        run_training(runner)
    except Stopped as stopped:
        # Without its traceback, which would hold the runner for as long as a notebook shows it.
        return stopped.with_traceback(None)
    return _result(runner)


def _interrupt(stopped: Stopped) -> None:
    """Let the signal do now what it would have done.

    Raises:
        KeyboardInterrupt: That is what it did, or nothing.
    """
    try:
        if threading.current_thread() is threading.main_thread():
            signal.raise_signal(stopped.signal)
    except KeyboardInterrupt:
        pass
    raise KeyboardInterrupt(f'stopped with a checkpoint: {stopped.checkpoint}')


def _result(runner: Runner) -> Distilled:
    for averaging in find_hooks(runner, EMAHook):
        # The averaged weights are those that were measured.
        averaging.before_val_epoch(runner)
    validations = runner.message_hub.get_info(_VALIDATIONS, [])
    work_dir = Path(runner.work_dir)
    saver = find_hook(runner, DurableCheckpointHook)
    last = None if saver is None else saver.last_ckpt
    best = [work_dir / hook.filename for hook in find_hooks(runner, StudentCheckpointHook)]
    # Without a validation, what is there is another run's.
    best = [path for path in best if validations and path.is_file()]
    return Distilled(
        student=_student(runner),
        metrics=validations[-1][1] if validations else {},
        history=_history(runner, validations),
        work_dir=work_dir,
        config=work_dir / Path(runner.cfg.filename).name,
        checkpoint=None if last is None else Path(last),
        best=next(iter(best), None),
    )


def _student(runner: Runner) -> nn.Module:
    """The student as mmseg's `init_model` would give it."""
    student: Any = student_of(runner.model)
    # What makes training and validation faster would surprise elsewhere.
    vars(student).pop('predict', None)
    cfg = to_builtins(runner.cfg.to_dict())
    cfg['model'] = to_builtins(trained_network_of(runner.cfg).model)
    loader = runner.val_dataloader if runner.val_loop is not None else runner.train_dataloader
    student.dataset_meta = dict(loader.dataset.metainfo)
    if cfg.get('val_dataloader') is not None:
        dataset = leaf(cfg['val_dataloader']['dataset'])
        # Each transform says that it is mmseg's: the default scope is not set outside a run.
        cfg['test_pipeline'] = [
            {'_scope_': 'mmseg', **transform}
            for transform in dataset.get('pipeline', ())
            if transform['type'] != 'LoadAnnotations'
        ]
    student.cfg = Config(cfg)
    network: nn.Module = student.eval()
    return network


def _history(runner: Runner, validations: Sequence[tuple[int, Mapping[str, float]]]) -> Any:
    """The curves of a run, those from before it was resumed included."""
    history: dict[str, Curve] = {}
    for name, buffer in runner.message_hub.log_scalars.items():
        values = np.asarray(buffer.data[0], dtype=np.float64)
        if name.startswith(TRAIN_PREFIX) and len(values) == runner.iter:
            history[name] = (np.arange(1, len(values) + 1), values)
    for name in validations[-1][1] if validations else ():
        found = [
            (iteration, metrics[name]) for iteration, metrics in validations if name in metrics
        ]
        iterations, measured = zip(*found, strict=True)
        history[VAL_PREFIX + name] = (np.array(iterations), np.array(measured, dtype=np.float64))
    return history


class _Validations(Hook):
    """Remembers what the validations measured, and when."""

    # Before CheckpointHook.
    priority = 'LOW'

    def after_val_epoch(self, runner: Runner, metrics: Mapping[str, float] | None = None) -> None:
        numbers = {
            name: float(value)
            for name, value in (metrics or {}).items()
            if isinstance(value, (int, float, np.number))
        }
        before = runner.message_hub.get_info(_VALIDATIONS, [])
        runner.message_hub.update_info(_VALIDATIONS, [*before, (runner.iter, numbers)])


class QuietRunner(Runner):
    """A runner that shows one line a record; what has more is in the log file alone.

    The config and the environment fill pages, and a notebook keeps what it shows.
    """

    def build_logger(self, *args: Any, **kwargs: Any) -> Any:
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.addFilter(_is_one_line)
        return logger


def _is_one_line(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    # What ends with a colon announces such a record.
    return record.levelno > logging.INFO or not ('\n' in text or text.endswith(':'))
