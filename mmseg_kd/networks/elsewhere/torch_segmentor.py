"""Any module of PyTorch as a segmentor."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
from mmseg.registry import MODELS
from torch import nn

from mmseg_kd.checkpoints.save import atomic_write
from mmseg_kd.checkpoints.trust import checkpoints_are_trusted
from mmseg_kd.errors import CheckpointError, ConfigError
from mmseg_kd.networks.elsewhere.module_segmentor import IMAGENET, ScoreSegmentor, scores_of
from mmseg_kd.networks.probe import evaluating, run_on_noise

# What files of `save_network` are called.
SUFFIX = '.pt'

# Networks of this process by these files.
_SAVED: WeakValueDictionary[str, nn.Module] = WeakValueDictionary()


@MODELS.register_module()
class TorchSegmentor(ScoreSegmentor):
    """A module of PyTorch that maps images to score maps.

    Args:
        module: 'package.module:function', what makes the network; or a file of `save_network`.
        arguments: Of the function.
        pretrained: Whether the function gives it with its trained weights.
        num_classes: How many classes its scores tell apart; None: as a dry run finds.
        loss_decode: As in mmseg's heads; None: cross-entropy without pixels labelled 255.
        data_preprocessor: As in mmseg; None: ImageNet's mean and std, RGB.
        test_cfg: As in mmseg; None: images as a whole.

    Raises:
        ConfigError: There is no such function, it fails, or what it makes gives no score maps.
        CheckpointError: The file is missing, or would run code that nobody trusts.
    """

    def __init__(
        self,
        module: str,
        arguments: Mapping[str, Any] | None = None,
        pretrained: bool = False,
        num_classes: int | None = None,
        loss_decode: Any = None,
        data_preprocessor: Mapping[str, Any] | None = None,
        test_cfg: Mapping[str, Any] | None = None,
    ) -> None:
        is_file = module.endswith(SUFFIX)
        network = _read(module) if is_file else _make(module, arguments or {})
        if num_classes is None:
            with evaluating(network):
                num_classes = run_on_noise(
                    network, lambda images: scores_of(network(images)).shape[1], module
                )
        super().__init__(
            network,
            num_classes,
            loss_decode,
            preprocessing=IMAGENET,
            data_preprocessor=data_preprocessor,
            test_cfg=test_cfg,
        )
        self.is_pretrained = is_file or bool(pretrained)


def save_network(network: nn.Module, path: Path) -> None:
    """Write a network as a whole, so that `TorchSegmentor` finds it.

    This process goes on with the network itself; another must trust the file to read it, and have
    the modules with its classes.

    Raises:
        ConfigError: It cannot be written, as one of a class inside a function.
    """
    try:
        with atomic_write(path) as partial:
            torch.save(network, partial)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(
            f'a {type(network).__name__} cannot be saved beside the run ({error}); put its class '
            "into a module, or give dict(type='TorchSegmentor', module='package.module:function')."
        ) from error
    _SAVED[str(path)] = network


def _read(path: str) -> nn.Module:
    if path in _SAVED:
        return copy.deepcopy(_SAVED[path])
    if not Path(path).is_file():
        raise CheckpointError(f'{path}: there is no such file.')
    if not checkpoints_are_trusted():
        raise CheckpointError(
            f'{path}: is a whole network, and reading one runs code. If you trust whoever made the '
            'file, read it with --trust-checkpoint.'
        )
    try:
        network = torch.load(path, map_location='cpu', weights_only=False)
    except Exception as error:  # whatever the code in it raises
        raise CheckpointError(
            f'{path}: cannot be read ({type(error).__name__}: {error}).'
        ) from error
    return _checked(network, path)


def _make(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    place, _, attributes = name.partition(':')
    if not attributes:
        raise ConfigError(
            f"module: expected 'package.module:function', or a file {SUFFIX}, got {name!r}."
        )
    try:
        found: Any = import_module(place)
        for attribute in attributes.split('.'):
            found = getattr(found, attribute)
        network = found(**arguments)
    except Exception as error:  # whatever the user's code raises
        raise ConfigError(f'module={name!r}: {type(error).__name__}: {error}') from error
    return _checked(network, name)


def _checked(network: Any, name: str) -> nn.Module:
    if not isinstance(network, nn.Module):
        raise ConfigError(f'{name}: expected an nn.Module, got a {type(network).__name__}.')
    return network
