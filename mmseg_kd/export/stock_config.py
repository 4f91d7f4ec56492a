"""A config that stock mmseg evaluates a student with, where this package is not installed."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import mmengine.registry as host
import mmseg.registry as mmseg_host
from mmengine.config import Config, ConfigDict
from mmengine.registry import Registry
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from mmseg_kd.distillation.task_loss import FusedCrossEntropyLoss
from mmseg_kd.errors import ConfigError, Problems
from mmseg_kd.evaluation import FastIoUMetric
from mmseg_kd.networks.build import replace_sync_bn, without_initialisation

# Packages whose classes stock mmseg builds by name.
STOCK_PACKAGES = (
    'mmseg',
    'mmengine',
    'mmcv',
    'mmpretrain',
    'mmdet',
    'torch',
    'torchvision',
    'timm',
)
# Networks that stock mmseg builds where this package is installed.
ELSEWHERE = 'mmseg_kd.networks.elsewhere'
# Ours that compute what mmseg's own do.
STOCK_TYPES = {FusedCrossEntropyLoss: 'CrossEntropyLoss', FastIoUMetric: 'IoUMetric'}
# What an evaluation reads, with test-time augmentation or without.
SECTIONS = ('test_dataloader', 'test_evaluator', 'tta_model', 'tta_pipeline')


def stock_config(cfg: Config, model: ConfigDict) -> dict[str, Any]:
    """The config that evaluates a network on a config's test split, in mmseg's own classes.

    It is complete in itself: no base, no weights of a backbone, BN where the training had SyncBN.
    Data sets that only name classes, palette and file endings become `BaseSegDataset`. Classes
    from a module of the user's that the config imports stay, and so does that import.

    Args:
        cfg: The config that the network was trained with.
        model: The network's model dict.

    Raises:
        ConfigError: Something in it is this package's and has no counterpart in mmseg;
            `ManyErrors` where that is more than one.
    """
    translation = _Translation(cfg)
    plain_model = replace_sync_bn(without_initialisation(model))
    sections = {key: cfg[key] for key in SECTIONS if cfg.get(key) is not None}
    values = {'model': translation.of(plain_model, 'model')}
    values |= {key: translation.of(value, key) for key, value in sections.items()}
    translation.problems.raise_if_any()
    if 'test_dataloader' in values:
        values['test_cfg'] = dict(type='TestLoop')
    if translation.imports:
        values['custom_imports'] = dict(imports=sorted(translation.imports))
    return {
        'default_scope': 'mmseg',
        **values,
        'default_hooks': dict(visualization=dict(type='SegVisualizationHook')),
        'visualizer': dict(
            type='SegLocalVisualizer',
            name='visualizer',
            vis_backends=[dict(type='LocalVisBackend')],
        ),
        'log_level': 'INFO',
    }


class _Translation:
    """Config values with mmseg's classes for ours.

    Attributes:
        imports: Modules of the user's that the values need.
        problems: What has no counterpart.
    """

    def __init__(self, cfg: Config) -> None:
        imported = (cfg.get('custom_imports') or {}).get('imports') or []
        imported = [imported] if isinstance(imported, str) else imported
        self._imported = [name for name in imported if name.split('.')[0] != 'mmseg_kd']
        self.imports: set[str] = set()
        self.problems = Problems()

    def of(self, value: Any, where: str) -> Any:
        """`value`, found at `where` in the config, in plain containers."""
        if isinstance(value, Mapping):
            # mmengine's mark of what came from a base of mmseg's, the default here.
            value = {k: v for k, v in value.items() if (k, v) != ('_scope_', 'mmseg')}
            value = self._with_stock_type(value, where)
            return {key: self.of(item, f'{where}.{key}') for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self.of(item, f'{where}[{i}]') for i, item in enumerate(value))
        return value

    def _with_stock_type(self, node: dict[str, Any], where: str) -> dict[str, Any]:
        kind = node.get('type')
        found = kind if isinstance(kind, type) else _class_named(kind)
        if found is None:
            return node
        if isinstance(kind, type):
            node['type'] = _name_of(found)
        if found in STOCK_TYPES:
            return {**node, 'type': STOCK_TYPES[found]}
        module = found.__module__
        if module.split('.')[0] in STOCK_PACKAGES:
            return node
        if module.startswith(ELSEWHERE):
            self.imports.add(ELSEWHERE)
            return node
        if issubclass(found, BaseSegDataset) and _only_describes(found):
            with self.problems:
                return _plain_dataset(node, found, where)
            return node
        for name in self._imported:
            if module == name or module.startswith(f'{name}.'):
                self.imports.add(name)
                return node
        self.problems.add(
            f'{where}: expected a class of stock mmseg, got {found.__name__} of {module}; '
            "put one of mmseg's in its place (--cfg-options), or name its module in "
            'custom_imports, where it does not need mmseg_kd.'
        )
        return node


def _class_named(name: Any) -> type | None:
    """The class that a `type` in a config names; None where it names none."""
    if not isinstance(name, str):
        return None
    for registry in _registries():
        found = registry.module_dict.get(name.rpartition('.')[2])
        if isinstance(found, type):
            return found
    return None


def _name_of(kind: type) -> str:
    """What a config calls a class."""
    for registry in _registries():
        for name, registered in registry.module_dict.items():
            if registered is kind:
                return str(name)
    return f'{kind.__module__}.{kind.__qualname__}'


def _registries() -> Iterator[Registry]:
    """mmseg's, then those that they look into next."""
    for module in (mmseg_host, host):
        yield from (value for value in vars(module).values() if isinstance(value, Registry))


def _only_describes(kind: type[BaseSegDataset]) -> bool:
    """Whether a data set's class says what its files are called and what its classes are, only."""
    own = kind.__mro__[: kind.__mro__.index(BaseSegDataset)]
    names = {name for one in own for name in vars(one)} - {'METAINFO', '_abc_impl'}
    return all(name.startswith('__') and name.endswith('__') for name in names)


def _plain_dataset(node: dict[str, Any], kind: type, where: str) -> dict[str, Any]:
    """The same files and labels as a `BaseSegDataset`."""
    unknown = set(node) - set(inspect.signature(BaseSegDataset.__init__).parameters) - {'type'}
    # Without its list of files, which need not be here.
    dataset = DATASETS.build({**node, 'pipeline': [], 'lazy_init': True})
    if unknown or dataset.label_map is not None:
        what = f'the arguments {sorted(unknown)}' if unknown else 'some of its classes only'
        raise ConfigError(
            f'{where}: {kind.__name__} with {what} cannot be written as a BaseSegDataset; write '
            'the test data set with classes of mmseg for the export (--cfg-options).'
        )
    return {
        **node,
        'type': 'BaseSegDataset',
        'img_suffix': dataset.img_suffix,
        'seg_map_suffix': dataset.seg_map_suffix,
        'reduce_zero_label': dataset.reduce_zero_label,
        'ignore_index': dataset.ignore_index,
        'metainfo': {key: dataset.metainfo[key] for key in ('classes', 'palette')},
    }
