"""What the student is measured against, in the same charts."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.dist import master_only
from mmengine.hooks import Hook, LoggerHook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmseg_kd.checks import is_name, is_number
from mmseg_kd.errors import ConfigError, LogError, nearest, short_repr
from mmseg_kd.hooks.find import find_hook
from mmseg_kd.host.aside import aside
from mmseg_kd.host.log_names import VAL_PREFIX
from mmseg_kd.host.visualizer import add_references
from mmseg_kd.runs.log import read_log, scalar_files


@HOOKS.register_module()
class ReferenceHook(Hook):
    """Draws what the teacher and the baseline reach into the charts of a validation.

    >>> dict(type='ReferenceHook', mIoU=dict(teacher=64.65, baseline='work_dirs/baseline'))

    Args:
        metrics: For a metric of the validation what each line is called and where it lies: a
            number, or the work dir of another run, whose last validation is taken.

    Raises:
        ConfigError: There is no line, or one is neither a number nor a work dir with the metric.
    """

    def __init__(self, **metrics: Mapping[str, float | str]) -> None:
        if not metrics:
            raise ConfigError(
                'ReferenceHook: expected lines such as mIoU=dict(teacher=64.65), got none.'
            )
        self.metrics = {metric: _read(metric, lines) for metric, lines in metrics.items()}

    @master_only
    def before_train(self, runner: Runner) -> None:
        """Begin the lines where the run begins."""
        self._draw(runner)

    @master_only
    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Draw them on to this validation."""
        measured = metrics or {}
        for metric in self.metrics.keys() - measured.keys():
            message = (
                f'ReferenceHook: the validation has no metric {metric!r}; '
                f'{nearest(metric, measured)}.'
            )
            print_log(message, logger='current', level=logging.WARNING)
        self._draw(runner)

    def _draw(self, runner: Runner) -> None:
        logger = find_hook(runner, LoggerHook)
        by_epoch = logger is not None and logger.log_metric_by_epoch
        prefix = VAL_PREFIX if runner.log_processor.log_with_hierarchy else ''
        for metric, lines in list(self.metrics.items()):
            step = runner.epoch if by_epoch else runner.iter
            with aside(f'ReferenceHook: {metric}', self.metrics.clear):
                add_references(runner.visualizer, prefix + metric, lines, step)


def _read(metric: str, lines: Any) -> dict[str, float]:
    if not isinstance(lines, Mapping) or not lines:
        raise ConfigError(
            f'ReferenceHook: {metric}: expected lines such as dict(teacher=64.65), got '
            f'{short_repr(lines)}.'
        )
    found = {}
    for name, value in lines.items():
        where = f'ReferenceHook: {metric}.{name}'
        if not is_name(name):
            raise ConfigError(f'{where}: expected a name of letters, digits, - and _.')
        if isinstance(value, str):
            value = _last_validation(Path(value), metric, where)
        if not is_number(value):
            raise ConfigError(
                f'{where}: expected a number or the work dir of a run, got {short_repr(value)}.'
            )
        found[name] = float(value)
    return found


def _last_validation(work_dir: Path, metric: str, where: str) -> float:
    """What the newest run in a work dir measured last."""
    files = scalar_files(work_dir)
    if not files:
        raise ConfigError(
            f'{where}: expected a work dir with */vis_data/scalars.json, got {str(work_dir)!r}; '
            'give the number itself.'
        )
    known: set[str] = set()
    for file in reversed(files):
        try:
            curves = read_log(file).val
        except LogError:  # a run that has logged nothing yet
            continue
        known |= curves.keys()
        for value in reversed(curves[metric].values.tolist() if metric in curves else ()):
            if is_number(value):
                return float(value)
    raise ConfigError(
        f'{where}: the runs in {str(work_dir)!r} have not measured it; {nearest(metric, known)}.'
    )
