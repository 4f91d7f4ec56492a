"""The best student so far, ready for stock mmseg."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmseg_kd.errors import ConfigError
from mmseg_kd.export.stock_checkpoint import save_student, stock_meta

RULES = ('greater', 'less')
# Where the message hub, and so every checkpoint of the run, keeps the best value.
_BEST = 'student_best'


@HOOKS.register_module()
class StudentCheckpointHook(Hook):
    """Keeps the student's weights of the best validation in the form that stock mmseg loads.

    `tools/train.py` adds it to every distillation. The file is written beside its name and then
    renamed: whenever the run is killed, there is a whole one. A resumed run goes on with the best
    value of the checkpoint that it resumes from. With an EMAHook the averaged weights are kept,
    which are those that were measured.

    Args:
        metric: What is compared; a validation without it keeps nothing and the log warns.
        rule: Whether 'greater' or 'less' is better.
        filename: In the work dir, .pth or .safetensors.

    Raises:
        ConfigError: `rule` is neither.
    """

    # Before EMAHook, which takes the averaged weights out again after a validation.
    priority = 'ABOVE_NORMAL'

    def __init__(
        self, metric: str = 'mIoU', rule: str = 'greater', filename: str = 'student_best.pth'
    ) -> None:
        if rule not in RULES:
            raise ConfigError(
                f'StudentCheckpointHook: rule: expected one of {", ".join(RULES)}, got {rule!r}.'
            )
        self.metric = metric
        self.rule = rule
        self.filename = filename

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Write the student if it is the best so far."""
        value = (metrics or {}).get(self.metric)
        if value is None:
            message = (
                f'{self.filename} is not kept: expected the metric {self.metric!r}, got '
                f'{", ".join(metrics or {}) or "none"}; name one in '
                "custom_hooks = [dict(type='StudentCheckpointHook', metric=...)]."
            )
            print_log(message, logger='current', level=logging.WARNING)
            return
        best = runner.message_hub.runtime_info.get(_BEST)
        if best is not None and not (value > best if self.rule == 'greater' else value < best):
            return
        if value != value:  # NaN is no first value either
            return
        runner.message_hub.update_info(_BEST, float(value))
        self._save(runner, float(value))

    @master_only
    def _save(self, runner: Runner, value: float) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        dataset: Any = runner.val_dataloader.dataset
        meta = stock_meta(
            getattr(dataset, 'metainfo', None), iter=runner.iter, **{self.metric: value}
        )
        target = Path(runner.work_dir) / self.filename
        save_student(getattr(model, 'student', model), target, meta)
        print_log(
            f'{target}: the best student so far, {self.metric} {value:.2f}.', logger='current'
        )
