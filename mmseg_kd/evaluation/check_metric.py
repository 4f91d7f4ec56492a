"""Whether a config measures what its runs are judged by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from mmseg_kd.errors import ConfigError, nearest

# What mmseg's IoUMetric measures beside aAcc, by what it is asked for.
_MEASURED = {
    'mIoU': ('mIoU', 'mAcc'),
    'mDice': ('mDice', 'mAcc'),
    'mFscore': ('mFscore', 'mPrecision', 'mRecall'),
}


def check_metric(metric: Any, config: Config, split: str, where: str) -> None:
    """See that a split is measured, and the metric in it, where it is known what is.

    Args:
        metric: Its name.
        config: A training's.
        split: 'val' or 'test'.
        where: What messages call the place that asks for the metric.

    Raises:
        ConfigError: It is not.
    """
    for key in (f'{split}_cfg', f'{split}_dataloader', f'{split}_evaluator'):
        if config.get(key) is None:
            raise ConfigError(
                f'{where}: expected a config that measures its {split} split; it has no {key}.'
            )
    evaluator = config[f'{split}_evaluator']
    names = evaluator.get('iou_metrics', ['mIoU']) if isinstance(evaluator, Mapping) else None
    names = [names] if isinstance(names, str) else names
    if names is None or evaluator.get('type') not in ('IoUMetric', 'FastIoUMetric'):
        return
    prefix = f'{evaluator["prefix"]}/' if evaluator.get('prefix') else ''
    known = {prefix + one for name in names for one in ('aAcc', *_MEASURED.get(name, ()))}
    if metric not in known:
        raise ConfigError(
            f'{where}: expected a metric that {split}_evaluator has, got {metric!r}; '
            f'{nearest(metric, sorted(known))}.'
        )
