"""What a config says to the runner, looked up before anything is built.

The runner builds its parts late and one after the other, and stops at the first that is wrong.
Here all types and arguments are looked up at once, each with its place in the config.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import Any, Literal

from mmengine.config import Config
from mmengine.registry import Registry
from mmseg.registry import (
    DATA_SAMPLERS,
    DATASETS,
    HOOKS,
    LOOPS,
    METRICS,
    MODELS,
    OPTIM_WRAPPERS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
    TRANSFORMS,
    VISBACKENDS,
    VISUALIZERS,
)
from torch.utils.data import DataLoader

from mmseg_kd.checks import is_integer
from mmseg_kd.errors import Problems, nearest, short_repr
from mmseg_kd.registry import look_up

Split = Literal['train', 'val', 'test']

# What each split needs, all of it or, for validation, none.
_PARTS: Mapping[Split, tuple[str, str, str]] = {
    'train': ('train_dataloader', 'train_cfg', 'optim_wrapper'),
    'val': ('val_dataloader', 'val_cfg', 'val_evaluator'),
    'test': ('test_dataloader', 'test_cfg', 'test_evaluator'),
}
_WORK: Mapping[Split, str] = {'train': 'training', 'val': 'validation', 'test': 'testing'}
_LOADER_KEYS = {*inspect.signature(DataLoader).parameters, 'num_batch_per_epoch'}
_ITERATIONS = ('max_iters', 'max_epochs', 'val_interval', 'val_begin')


def check_runner_config(cfg: Config, splits: Collection[Split]) -> None:
    """See that the runner's parts are there and name classes and arguments that exist.

    Args:
        cfg: The config.
        splits: What the runner will be used for; 'val' may be missing from the config.

    Raises:
        ConfigError: They do not; `ManyErrors` where more than one does not.
    """
    check = _Check()
    check.member(MODELS, cfg.get('model'), 'model', is_complete=True)
    for split in splits:
        check.split(cfg, split)
    for name, hook in check.entries(cfg.get('default_hooks'), 'default_hooks'):
        check.member(HOOKS, hook, name, optional=('priority',))
    for name, hook in check.items(cfg.get('custom_hooks'), 'custom_hooks'):
        check.member(HOOKS, hook, name, optional=('priority',))
    visualizer = cfg.get('visualizer')
    check.member(VISUALIZERS, visualizer, 'visualizer')
    if isinstance(visualizer, Mapping):
        place = 'visualizer.vis_backends'
        for name, backend in check.items(visualizer.get('vis_backends'), place):
            check.member(VISBACKENDS, backend, name)
    check.problems.raise_if_any()


class _Check:
    """Looks at parts of a config and keeps what is wrong with them."""

    def __init__(self) -> None:
        self.problems = Problems()

    def member(
        self,
        registry: Registry,
        value: Any,
        where: str,
        optional: Collection[str] = (),
        default: str | None = None,
        is_complete: bool = False,
    ) -> None:
        """A dict that names a class; nothing where there is none, or what is no dict of data."""
        if value is None or not isinstance(value, (Mapping, list, tuple, str, int, float)):
            return  # the runner takes objects too
        if default is not None and isinstance(value, Mapping) and 'type' not in value:
            value = {**value, 'type': default}
        with self.problems:
            look_up(registry, value, where, optional=optional, is_complete=is_complete)

    def items(self, value: Any, where: str) -> list[tuple[str, Any]]:
        """The entries of a list, each with its place."""
        if value is None or isinstance(value, (list, tuple)):
            return [(f'{where}[{index}]', one) for index, one in enumerate(value or ())]
        self.problems.add(f'{where}: expected a list of dicts, got {short_repr(value)}.')
        return []

    def one_or_more(self, value: Any, where: str) -> list[tuple[str, Any]]:
        """A dict, or the entries of a list."""
        return [(where, value)] if isinstance(value, Mapping) else self.items(value, where)

    def entries(self, value: Any, where: str) -> list[tuple[str, Any]]:
        """The entries of a dict, each with its place."""
        if value is None or isinstance(value, Mapping):
            return [(f'{where}.{key}', one) for key, one in (value or {}).items()]
        self.problems.add(f'{where}: expected a dict of dicts, got {short_repr(value)}.')
        return []

    def split(self, cfg: Config, split: Split) -> None:
        parts = _PARTS[split]
        there = [part for part in parts if cfg.get(part) is not None]
        if there or split != 'val':
            for part in parts:
                if part not in there:
                    self.problems.add(
                        f'{part} is missing; {_WORK[split]} needs {", ".join(parts)}.'
                    )
        loader, loop, last = (cfg.get(part) for part in parts)
        self.loader(loader, parts[0])
        self.loop(loop, parts[1], split)
        if split == 'train':
            self.optimisation(last, cfg.get('param_scheduler'))
            return
        if isinstance(last, Mapping) and 'metrics' in last:
            last = last['metrics']
        for name, metric in self.one_or_more(last, parts[2]):
            self.member(METRICS, metric, name)

    def loader(self, loader: Any, where: str) -> None:
        if not isinstance(loader, Mapping):
            if loader is not None:
                self.problems.add(f'{where}: expected a dict, got {short_repr(loader)}.')
            return
        for key in loader:
            if key not in _LOADER_KEYS:
                self.problems.add(f'{where}: unknown key {key!r}; {nearest(key, _LOADER_KEYS)}.')
        for key in ('sampler', 'batch_sampler'):
            self.member(DATA_SAMPLERS, loader.get(key), f'{where}.{key}')
        if loader.get('dataset') is None:
            self.problems.add(f'{where}: dataset is missing.')
        self.dataset(loader.get('dataset'), f'{where}.dataset')

    def dataset(self, dataset: Any, where: str) -> None:
        self.member(DATASETS, dataset, where)
        if not isinstance(dataset, Mapping):
            return
        if isinstance(dataset.get('dataset'), Mapping):
            self.dataset(dataset['dataset'], f'{where}.dataset')
        if isinstance(dataset.get('datasets'), (list, tuple)):
            for name, one in self.items(dataset['datasets'], f'{where}.datasets'):
                self.dataset(one, name)
        for name, transform in self.items(dataset.get('pipeline'), f'{where}.pipeline'):
            self.member(TRANSFORMS, transform, name)

    def loop(self, loop: Any, where: str, split: Split) -> None:
        if not isinstance(loop, Mapping):
            if loop is not None:
                self.problems.add(f'{where}: expected a dict, got {short_repr(loop)}.')
            return
        if 'type' in loop:
            self.member(LOOPS, loop, where, optional=('by_epoch',))
        for key in _ITERATIONS if split == 'train' else ():
            if key in loop and not (is_integer(loop[key]) and loop[key] >= 1):
                self.problems.add(
                    f'{where}.{key}: expected a whole number >= 1, got {short_repr(loop[key])}.'
                )

    def optimisation(self, wrapper: Any, schedulers: Any) -> None:
        optional = ('constructor', 'paramwise_cfg')
        self.member(OPTIM_WRAPPERS, wrapper, 'optim_wrapper', optional, default='OptimWrapper')
        if isinstance(wrapper, Mapping) and 'constructor' not in wrapper:
            if wrapper.get('optimizer') is None:
                self.problems.add('optim_wrapper: optimizer is missing.')
            self.member(OPTIMIZERS, wrapper.get('optimizer'), 'optim_wrapper.optimizer')
        for name, scheduler in self.one_or_more(schedulers, 'param_scheduler'):
            self.member(PARAM_SCHEDULERS, scheduler, name, optional=('convert_to_iter_based',))
