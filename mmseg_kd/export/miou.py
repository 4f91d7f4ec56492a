"""mIoU of an exported network, through mmseg's own prediction and metric."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner
from mmseg.models import SegDataPreProcessor
from torch import Tensor

from mmseg_kd.data_checks.preflight import check_dataset
from mmseg_kd.evaluation import use_fast_metrics
from mmseg_kd.export.export_module import ExportModule
from mmseg_kd.networks.probe import evaluating


def miou(cfg: Config, deployed: ExportModule, exported: Callable[[Tensor], Tensor]) -> float:
    """mIoU in percent on a config's test split, with `exported` for the network's forward pass.

    Windows, padding and scaling back to the masks are mmseg's. An exported network that puts out
    labels has them scaled as scores of 0 and 1.

    Raises:
        DatasetError, ConfigError: As in `check_dataset`.
        KeyError: The config's metric gives no mIoU; see `check_metric`.
    """
    cfg = copy.deepcopy(cfg)
    use_fast_metrics(cfg)
    # What every exported network takes.
    cfg.test_dataloader.batch_size = 1
    network = deployed.network
    check_dataset(cfg.test_dataloader['dataset'], 'test', network.num_classes)
    loader = Runner.build_dataloader(cfg.test_dataloader)
    evaluator = Evaluator(cfg.test_evaluator)
    evaluator.dataset_meta = loader.dataset.metainfo
    with evaluating(network), _computed_by(exported, deployed):
        for batch in loader:
            evaluator.process(data_samples=network.test_step(batch), data_batch=batch)
    return float(evaluator.evaluate(len(loader.dataset))['mIoU'])


@contextmanager
def _computed_by(exported: Callable[[Tensor], Tensor], deployed: ExportModule) -> Iterator[None]:
    """The network with another forward pass."""
    network: Any = deployed.network
    preprocessor = network.data_preprocessor

    def encode_decode(inputs: Tensor, batch_img_metas: Any) -> Tensor:
        output = exported(inputs if deployed.colours is None else deployed.layout(inputs))
        if not deployed.labels:
            return output
        return F.one_hot(output.long(), network.out_channels).permute(0, 3, 1, 2).float()

    network.encode_decode = encode_decode
    if deployed.colours is not None:
        network.data_preprocessor = SegDataPreProcessor()
    try:
        with torch.inference_mode():
            yield
    finally:
        del network.encode_decode
        network.data_preprocessor = preprocessor
