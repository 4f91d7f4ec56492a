"""Where the fast evaluation takes the place of mmseg's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner, TestLoop, ValLoop
from mmseg.datasets.transforms import PackSegInputs
from mmseg.evaluation.metrics import CityscapesMetric, IoUMetric
from mmseg.registry import LOOPS, METRICS, TRANSFORMS

from mmseg_kd.evaluation.fast_iou_metric import FastIoUMetric
from mmseg_kd.evaluation.lean_prediction import use_lean_prediction
from mmseg_kd.evaluation.pack_byte_labels import PackByteLabels

# What is known to read the predicted classes alone.
METRICS_OF_LABELS = (IoUMetric, FastIoUMetric, CityscapesMetric)
LOOPS_OF_LABELS = (None, ValLoop, TestLoop)
PACKAGES_OF_LABELS = ('mmengine', 'mmseg', 'mmseg_kd')


def use_fast_metrics(cfg: Config) -> None:
    """Put `FastIoUMetric` where a config has `IoUMetric`."""
    for metric in _all_metrics(cfg):
        if isinstance(metric, dict) and _resolved(metric.get('type'), METRICS) is IoUMetric:
            metric['type'] = 'FastIoUMetric'


def use_lean_prediction_in(runner: Runner) -> None:
    """Let the runner's network predict without scores, where nothing may want to read them."""
    readers = readers_of_scores(runner)
    if readers:
        print_log(
            f"{', '.join(readers)} may read the scores: they are kept (mmseg's own prediction).",
            logger='current',
        )
    elif use_lean_prediction(runner.model):
        print_log('Predictions keep no scores; --plain-eval keeps them.', logger='current')
        # What does not read scores compares labels or paints them, and any integers do.
        for name in ('_val_dataloader', '_test_dataloader'):
            loader = getattr(runner, name)
            if isinstance(loader, dict):
                setattr(runner, name, with_byte_labels(loader))


def with_byte_labels(cfg: Any) -> Any:
    """A copy of a loader's config whose pipelines have `PackByteLabels` for `PackSegInputs`."""
    if isinstance(cfg, dict):
        # `type(cfg)()`: a ConfigDict stays one.
        found = type(cfg)()
        for key, value in cfg.items():
            found[key] = with_byte_labels(value)
        kind = cfg.get('type')
        # Of the names, only this one is looked up: most others are in other registries.
        is_named = isinstance(kind, str) and kind.split('.')[-1] == PackSegInputs.__name__
        if (TRANSFORMS.get(kind) if is_named else kind) is PackSegInputs:
            found['type'] = PackByteLabels
        return found
    if isinstance(cfg, (list, tuple)):
        return type(cfg)(with_byte_labels(one) for one in cfg)
    return cfg


def readers_of_scores(runner: Runner) -> list[str]:
    """What may read `seg_logits` in the results: classes that are neither mmseg's nor ours.

    These are metrics, loops, the visualiser, and hooks that are called with the results.
    """
    cfg = runner.cfg
    kinds = [
        metric.get('type') if isinstance(metric, dict) else type(metric)
        for metric in _all_metrics(cfg)
    ]
    found = [kind for kind in kinds if _resolved(kind, METRICS) not in METRICS_OF_LABELS]
    loops = [(cfg.get(key) or {}).get('type') for key in ('val_cfg', 'test_cfg')]
    found += [kind for kind in loops if _resolved(kind, LOOPS) not in LOOPS_OF_LABELS]
    seeing = [type(hook) for hook in runner.hooks if _sees_results(type(hook))]
    found += [
        kind
        for kind in (*seeing, type(runner.visualizer))
        if kind.__module__.split('.')[0] not in PACKAGES_OF_LABELS
    ]
    return [getattr(kind, '__name__', str(kind)) for kind in dict.fromkeys(found)]


def _all_metrics(cfg: Config) -> Iterator[Any]:
    return metrics_of(cfg.get('val_evaluator'), cfg.get('test_evaluator'))


def metrics_of(*evaluators: Any) -> Iterator[Any]:
    """All metrics of evaluators, dicts or objects; also evaluators that are not mmengine's own."""
    waiting = list(evaluators)
    while waiting:
        one = waiting.pop()
        if isinstance(one, (list, tuple)):
            waiting += one
        elif isinstance(one, dict) and 'metrics' in one:
            waiting.append(one['metrics'])
            if one.get('type', 'Evaluator') != 'Evaluator':
                yield dict(type=one['type'])
        elif one is not None:
            yield one


def _resolved(kind: Any, registry: Any) -> Any:
    """The class that `kind` names."""
    return registry.get(kind) if isinstance(kind, str) else kind


def _sees_results(hook: type[Hook]) -> bool:
    names = ('after_val_iter', 'after_test_iter', '_after_iter')
    return any(getattr(hook, name) is not getattr(Hook, name) for name in names)
