"""The best student so far, ready for stock mmseg."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmseg_kd.checkpoints import read_checkpoint
from mmseg_kd.checkpoints.student import save_student, stock_meta
from mmseg_kd.errors import CheckpointError, ConfigError
from mmseg_kd.networks.build import student_of

RULES = ('greater', 'less')


@HOOKS.register_module()
class StudentCheckpointHook(Hook):
    """Keeps the student's weights of the best validation in the form that stock mmseg loads.

    `mmseg-kd train` adds it to every distillation. The file is written beside its name and then
    renamed: whenever the run is killed, there is a whole one. A run that is resumed in its work dir
    goes on from the best value there. Where it cannot be written, the log says so, and the next
    validation that is better than the file tries again. With an EMAHook the averaged weights are
    kept, which are those that were measured.

    Args:
        metric: What is compared; a validation without it keeps nothing and the log warns. None:
            mIoU, or, where that is not measured, the first mean over classes that is (mDice,
            mFscore), or the first metric of all.
        rule: Whether 'greater' or 'less' is better.
        filename: In the work dir, .pth or .safetensors.

    Raises:
        ConfigError: `rule` is neither.
    """

    # Before EMAHook, which takes the averaged weights out again after a validation.
    priority = 'ABOVE_NORMAL'

    def __init__(
        self, metric: str | None = None, rule: str = 'greater', filename: str = 'student_best.pth'
    ) -> None:
        if rule not in RULES:
            raise ConfigError(
                f'StudentCheckpointHook: rule: expected one of {", ".join(RULES)}, got {rule!r}.'
            )
        self.metric = metric
        self.rule = rule
        self.filename = filename
        self._best: float | None = None

    @master_only
    def before_train(self, runner: Runner) -> None:
        """Take up the best value so far, which the file has with it, in a run that is resumed."""
        target = self._target(runner)
        if runner.iter > 0 and target.is_file():
            try:
                meta = read_checkpoint(str(target)).get('meta', {})
            except CheckpointError as error:
                message = f'{error} The next validation writes it anew.'
                print_log(message, logger='current', level=logging.WARNING)
                return
            self.metric = self.metric or meta.get('metric', 'mIoU')
            value = meta.get(self.metric)
            self._best = None if value is None else float(value)

    @master_only
    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Write the student if it is the best so far."""
        if self.metric is None:
            self.metric = _best_known(metrics or {})
        value = (metrics or {}).get(self.metric)
        if value is None:
            message = (
                f'{self.filename} is not kept: expected the metric {self.metric!r}, got '
                f'{", ".join(metrics or {}) or "none"}; name one in '
                "custom_hooks = [dict(type='StudentCheckpointHook', metric=...)]."
            )
            print_log(message, logger='current', level=logging.WARNING)
            return
        if not self._is_best(float(value)):
            return
        before, self._best = self._best, float(value)
        dataset: Any = runner.val_dataloader.dataset
        meta = stock_meta(
            getattr(dataset, 'metainfo', None),
            iter=runner.iter,
            metric=self.metric,
            **{self.metric: self._best},
        )
        target = self._target(runner)
        try:
            save_student(student_of(runner.model), target, meta)
        except CheckpointError as error:
            self._best = before
            print_log(f'The best student is not kept: {error}', 'current', logging.ERROR)
            return
        message = f'{target}: the best student so far, {self.metric} {self._best:.2f}.'
        print_log(message, logger='current')

    def _is_best(self, value: float) -> bool:
        if self._best is None:
            return not math.isnan(value)
        return value > self._best if self.rule == 'greater' else value < self._best

    def _target(self, runner: Runner) -> Path:
        return Path(runner.work_dir) / self.filename


def _best_known(metrics: Iterable[str]) -> str:
    """Which of some metrics says most of a network, by mmseg's names."""
    names = list(metrics)
    means = [name for name in names if name.startswith('m') and name != 'mAcc']
    return 'mIoU' if 'mIoU' in names else next(iter([*means, *names]), 'mIoU')
