"""A student's weights with a config that stock mmseg evaluates them by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS, MODELS
from torch import Tensor

from mmseg_kd.checkpoints import read_state_dict
from mmseg_kd.checkpoints.save import atomic_write
from mmseg_kd.checkpoints.student import save_student, stock_meta
from mmseg_kd.config.network_spec import trained_network_of
from mmseg_kd.config.text import write
from mmseg_kd.export.agreement import ExportedFile, compare
from mmseg_kd.export.export_module import ExportModule
from mmseg_kd.export.stock_config import stock_config
from mmseg_kd.host.quiet import as_config_error

HEADER = '# Complete in itself: mmseg reads and evaluates it with its own tools/test.py.\n'


def export_weights(
    cfg: Config, deployed: ExportModule, pictures: Sequence[Tensor], target: Path
) -> tuple[ExportedFile, list[str]]:
    """Write weights and config, compared before and read again afterwards.

    Args:
        cfg: The config that the student was trained with.
        deployed: The student.
        pictures: (3, H, W), uint8, BGR: what both are compared on; at least one.
        target: `.pth`, with the config in a `.py` beside it; or `.safetensors`, with the config
            inside.

    Returns:
        The file, with what the network that the config builds computes against the student, and
        the modules that the config needs beside mmseg.

    Raises:
        ConfigError: Something in the config has no counterpart in stock mmseg.
        ExportError: The two differ by more than rounding.
        CheckpointError: A file cannot be written.
    """
    stock = stock_config(cfg, trained_network_of(cfg).model)
    text = HEADER + write(stock)
    meta = stock_meta(_dataset_meta((stock.get('test_dataloader') or {}).get('dataset')))
    with as_config_error('the exported config'):
        again = MODELS.build(Config.fromstring(text, '.py').model)
    again.load_state_dict(deployed.network.state_dict(), strict=True)
    agreement = compare(deployed, ExportModule(again), map(deployed.input_of, pictures))
    agreement.check(str(target))
    if target.suffix == '.safetensors':
        save_student(deployed.network, target, {**meta, 'config': text})
    else:
        save_student(deployed.network, target, meta)
        with atomic_write(target.with_suffix('.py')) as unfinished:
            unfinished.write_text(text, encoding='utf-8')
    again.load_state_dict(read_state_dict(str(target)), strict=True)
    modules = (stock.get('custom_imports') or {}).get('imports', [])
    return ExportedFile(target, agreement), modules


def _dataset_meta(dataset: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Classes and palette of a data set, from its config; its files need not be here.

    Args:
        dataset: The config; None, or one that wraps other data sets: they are not known.
    """
    kind = DATASETS.get(dataset.get('type', '')) if dataset else None
    if not (isinstance(kind, type) and issubclass(kind, BaseSegDataset)):
        return None
    built = DATASETS.build({**(dataset or {}), 'pipeline': [], 'lazy_init': True})
    meta: Mapping[str, Any] = built.metainfo
    return meta
