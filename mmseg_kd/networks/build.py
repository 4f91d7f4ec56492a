"""A teacher's or student's network: from the config dict to the module, and to its taps."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from mmengine.config import ConfigDict
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.registry import DefaultScope
from mmseg.models.segmentors.base import BaseSegmentor
from mmseg.registry import MODELS

from mmseg_kd.errors import ConfigError, KDError
from mmseg_kd.host.quiet import explain
from mmseg_kd.networks.elsewhere.features import FeatureNetwork
from mmseg_kd.registry import look_up


def replace_sync_bn(cfg: Any) -> Any:
    """`cfg` with BN for every SyncBN, which needs CUDA; the first time one line says so."""
    found = False

    def walk(node: Any) -> Any:
        nonlocal found
        if isinstance(node, Mapping):
            if node.get('type') == 'SyncBN':
                found = True
                node = {**node, 'type': 'BN'}
            return type(cfg)({k: walk(v) for k, v in node.items()})
        if isinstance(node, (list, tuple)):
            return type(node)(walk(v) for v in node)
        return node

    replaced = walk(cfg)
    if found:
        _say_once('BN takes the place of SyncBN, which needs CUDA.')
    return replaced


@cache
def _say_once(text: str) -> None:
    print_log(text, logger='current')


def build_network(model: ConfigDict, side: str) -> Any:
    """Build a network, an `nn.Module` with mmseg's interface, from its model dict.

    Raises:
        ConfigError: mmseg refused it.
    """
    if get_device() != 'cuda':
        model = replace_sync_bn(model)
    look_up(MODELS, model, side)
    # Where no scope is chosen, as in a program of the user's own, parts are looked for in mmengine
    # alone.
    scope = None if DefaultScope.get_current_instance() else 'mmseg'
    try:
        with DefaultScope.overwrite_default_scope(scope):
            return MODELS.build(model)
    except KDError as error:
        raise type(error)(f'{side}: {error}') from error
    except Exception as error:  # whatever a class of mmseg, timm or the user raises
        raise ConfigError(f'{side}: {explain(error)}') from error


def build_segmentor(model: ConfigDict, side: str, or_features: bool = False) -> Any:
    """Build a network that segments.

    Args:
        model: Its model dict.
        side: What messages call it.
        or_features: Whether it may be a backbone that teaches by its features.

    Raises:
        ConfigError: mmseg refused it, or it is only a part of one, such as a backbone.
    """
    network = build_network(model, side)
    if not isinstance(network, (BaseSegmentor, FeatureNetwork) if or_features else BaseSegmentor):
        raise ConfigError(
            f'{side}: expected a segmentor such as EncoderDecoder, got {type(network).__name__}.'
        )
    return network


# Those of `mmseg_kd.networks.elsewhere` that take trained weights by themselves.
_BRING_WEIGHTS = (
    'HFFeatures',
    'HFSegmentor',
    'TimmFeatures',
    'TimmSegmentor',
    'TorchvisionSegmentor',
    'SMPSegmentor',
)


def without_initialisation(model: Any) -> Any:
    """The model dict without what would fetch weights: the checkpoint has them all."""
    if isinstance(model, dict):
        cleaned = {k: without_initialisation(v) for k, v in model.items() if k != 'init_cfg'}
        if 'pretrained' in cleaned:
            cleaned['pretrained'] = None
        if cleaned.get('type') in _BRING_WEIGHTS:
            cleaned['pretrained'] = False
        if cleaned.get('type') == 'TIMMBackbone':
            cleaned.update(pretrained=False, checkpoint_path='')
        return type(model)(cleaned)
    if isinstance(model, (list, tuple)):
        return type(model)(without_initialisation(v) for v in model)
    return model


def unwrapped(model: Any) -> Any:
    """The model of a runner, out of what distributes it over ranks."""
    return model.module if is_model_wrapper(model) else model


def student_of(model: Any) -> Any:
    """The network of a runner's model that is trained: a wrapper's student, or the model itself."""
    model = unwrapped(model)
    return getattr(model, 'student', model)
