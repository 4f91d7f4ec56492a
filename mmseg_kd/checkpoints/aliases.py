"""The short names that mmengine has for published weights, such as open-mmlab://resnet50_v1c."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from mmengine.runner.checkpoint import (
    _get_mmengine_home,
    get_deprecated_model_names,
    get_external_models,
    get_mmcls_models,
    get_torchvision_models,
)

from mmseg_kd.errors import CheckpointError, nearest


def _openmmlab_models() -> dict[str, str]:
    models = get_external_models()
    renamed = get_deprecated_model_names()
    return {**models, **{old: models[new] for old, new in renamed.items() if new in models}}


_MODELS: dict[str, Callable[[], Mapping[str, str]]] = {
    'torchvision': get_torchvision_models,
    'modelzoo': get_torchvision_models,
    'open-mmlab': _openmmlab_models,
    'openmmlab': _openmmlab_models,
    'mmcls': get_mmcls_models,
}


def resolve_alias(name: str) -> str:
    """The URL or path that a short name stands for; any other name as it is.

    Raises:
        CheckpointError: There is no such model; the message has the nearest.
    """
    scheme, _, model = name.partition('://')
    if scheme not in _MODELS or not model:
        return name
    # torchvision has networks without weights.
    places = {name: place for name, place in _MODELS[scheme]().items() if place}
    if model not in places:
        raise CheckpointError(f'{name}: there is no {model!r}; {nearest(model, places)}.')
    place = places[model]
    # The list that a user may keep in mmengine's home has paths, seen from there.
    return place if '://' in place else str(Path(_get_mmengine_home(), place))
