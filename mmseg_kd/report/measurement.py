"""What the logs do not have: results by class, confusion and speed of a network, measured."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmseg.evaluation.metrics import IoUMetric
from numpy.typing import NDArray

from mmseg_kd.analysis.differences import VOID
from mmseg_kd.data_checks.preflight import check_dataset
from mmseg_kd.errors import ConfigError
from mmseg_kd.evaluation import FastIoUMetric
from mmseg_kd.evaluation.complexity import complexity
from mmseg_kd.evaluation.latency import measure_latency
from mmseg_kd.evaluation.lean_prediction import lean_prediction
from mmseg_kd.host.quiet import explain
from mmseg_kd.networks.probe import evaluating


@dataclass(frozen=True)
class Measurement:
    """What a network does on the test split of a config.

    Attributes:
        classes: Their names.
        palette: Their colours, RGB.
        counts: Pixels of every pair (annotated, predicted), as `FastIoUMetric.count_pairs` has
            them, over all images.
        images: Their paths.
        right, annotated: Pixels of each image.
        size: Height and width of the picture that speed was measured with.
        parameters: How many.
        flops: Operations for that picture, a multiply-add counted once; None: not counted.
        seconds: Median for that picture, from pixels to classes; None: not measured.
        device: Where.
        session: The same for networks that were timed in turns; '' where none was.
    """

    classes: list[str]
    palette: list[list[int]]
    counts: list[list[int]]
    images: list[str]
    right: list[int]
    annotated: list[int]
    size: list[int]
    parameters: int
    flops: int | None = None
    seconds: float | None = None
    device: str = ''
    session: str = ''

    @property
    def confusion(self) -> NDArray[np.int64]:
        """Pixels (C, C): a row for each annotated and a column for each predicted class."""
        return np.asarray(self.counts, dtype=np.int64)[1:-1, 1:-1]

    @cached_property
    def iou(self) -> dict[str, float]:
        """IoU in percent by class; NaN where a class is in no mask and in no prediction."""
        values = np.round(self._metrics['IoU'] * 100, 2)
        return dict(zip(self.classes, map(float, values), strict=True))

    def mean(self, name: str = 'IoU') -> float:
        """mIoU ('IoU'), mAcc ('Acc') or aAcc in percent."""
        return float(np.round(np.nanmean(self._metrics[name]) * 100, 2))

    @cached_property
    def _metrics(self) -> dict[str, Any]:
        """Shares of every class, by mmseg's own formulas, in its precision."""
        counts = torch.tensor(self.counts)
        intersect = counts.diagonal()[1:-1]
        predicted, annotated = counts.sum(0)[1:-1], counts.sum(1)[1:-1]
        union = predicted + annotated - intersect
        found: dict[str, Any] = IoUMetric.total_area_to_metrics(
            intersect, union, predicted, annotated
        )
        return found


def test_loader(cfg: Config) -> Any:
    """What a config evaluates on: its test split, or the validation split where it has none.

    Raises:
        ConfigError: It has neither.
    """
    loader = cfg.get('test_dataloader') or cfg.get('val_dataloader')
    if not loader:
        raise ConfigError('the config has no test_dataloader and no val_dataloader.')
    return loader


def ignored_label(cfg: Config) -> int:
    """The label that a config's metric leaves out."""
    metrics = cfg.get('test_evaluator') or cfg.get('val_evaluator') or []
    for metric in metrics if isinstance(metrics, (list, tuple)) else [metrics]:
        if isinstance(metric, Mapping) and 'ignore_index' in metric:
            return int(metric['ignore_index'])
    return VOID


def measure(network: Any, cfg: Config, progress: Callable[[int, int], None]) -> Measurement:
    """Evaluate a network on the test split of a config, and count its operations.

    Args:
        network: A segmentor of mmseg's with its weights.
        cfg: Says what data.
        progress: Is called with the number of images done and of all.

    Raises:
        DatasetError, ConfigError: The data are not there, or have other classes.
    """
    loader_cfg = test_loader(cfg)
    check_dataset(loader_cfg['dataset'], 'test', network.num_classes)
    loader = Runner.build_dataloader(loader_cfg)
    meta = loader.dataset.metainfo
    classes = len(meta['classes'])
    ignored = ignored_label(cfg)
    total = torch.zeros(classes + 2, classes + 2, dtype=torch.int64)
    images, right, annotated = [], [], []
    size: list[int] = []
    with lean_prediction(network), evaluating(network):
        for batch in loader:
            size = size or list(batch['inputs'][0].shape[-2:])
            for sample in network.test_step(batch):
                predicted = sample.pred_sem_seg.data.squeeze()
                label = sample.gt_sem_seg.data.squeeze().to(predicted)
                counts = FastIoUMetric.count_pairs(predicted, label, classes, ignored).cpu()
                total += counts
                images.append(str(sample.img_path))
                right.append(int(counts.diagonal()[1:-1].sum()))
                annotated.append(int(counts[1:-1].sum()))
            progress(len(images), len(loader.dataset))
    names = [str(name) for name in meta['classes']]
    return Measurement(
        classes=names,
        palette=_palette(meta.get('palette'), len(names)),
        counts=total.tolist(),
        images=images,
        right=right,
        annotated=annotated,
        size=size,
        parameters=sum(p.numel() for p in network.parameters()),
        flops=operations(network, size),
    )


def _palette(palette: Any, count: int) -> list[list[int]]:
    """The colours of a data set, or drawn ones where it has none."""
    if palette is None or len(palette) < count:
        palette = np.random.default_rng(0).integers(40, 230, (count, 3))
    return [[int(value) for value in colour] for colour in palette[:count]]


def operations(network: Any, size: list[int]) -> int | None:
    """Operations for a picture (height, width), a multiply-add counted once; None: not countable.

    What takes no plain tensor cannot be counted.
    """
    try:
        return complexity(network, (size[0], size[1])).whole.flops
    except Exception as error:  # whatever tracing a network of the user's raises
        print_log(f'Operations not counted: {explain(error)}', 'current', logging.WARNING)
        return None


def time_networks(
    networks: Mapping[str, Any], found: Mapping[str, Measurement], rounds: int = 20
) -> dict[str, Measurement]:
    """The measurements with the time that each network takes for a picture, in turns."""
    calls = {}
    for name, network in networks.items():
        size = found[name].size
        picture = torch.randint(0, 256, (3, *size), dtype=torch.uint8)

        def call(network: Any = network, picture: Any = picture) -> Any:
            result = network.test_step(dict(inputs=[picture]))
            if next(network.parameters()).is_cuda:
                torch.cuda.synchronize()
            return result

        network.eval()
        calls[name] = call
    seconds = measure_latency(calls, rounds=rounds)
    device, session = device_name(), uuid4().hex
    return {
        name: replace(found[name], seconds=value, device=device, session=session)
        for name, value in seconds.items()
    }


def device_name() -> str:
    """The GPU, or the CPU and its threads."""
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    threads = torch.get_num_threads()
    return f'{_processor()}, {threads} thread{"s" * (threads > 1)}'


def _processor() -> str:
    info = Path('/proc/cpuinfo')
    if info.is_file():
        for line in info.read_text(encoding='utf-8', errors='replace').splitlines():
            if line.startswith('model name'):
                return line.partition(':')[2].strip()
    return platform.processor() or platform.machine()
