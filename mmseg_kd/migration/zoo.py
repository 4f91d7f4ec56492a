"""Networks that mmseg's own configs describe, as references to those configs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import mmseg
from mmengine.config import Config
from mmseg.registry import MODELS

from mmseg_kd.migration.registered import REQUIRED, defaults, find

_ZOO = Path(mmseg.__file__).parent / '.mim' / 'configs'

# Where to look, by backbone and head.
_PATTERNS = {
    ('MixVisionTransformer', 'SegformerHead'): (
        'segformer/segformer_mit-b?_8xb2-160k_ade20k-512x512.py',
        'segformer/segformer_mit-b?_8xb1-160k_cityscapes-1024x1024.py',
    ),
    ('SwinTransformer', 'UPerHead'): ('swin/swin-*-pre_upernet_8xb2-160k_ade20k-512x512.py',),
    ('ResNetV1c', 'PSPHead'): (
        'pspnet/pspnet_r*-d8_4xb4-160k_ade20k-512x512.py',
        'pspnet/pspnet_r*-d8_4xb2-80k_cityscapes-512x1024.py',
    ),
}

# With more changes than this a network is read more easily when it is written out.
_MOST_CHANGES = 6

# Said elsewhere: how images come in, and what the backbone starts from.
_APART = ('data_preprocessor', 'pretrained', 'init_cfg')


@dataclass(frozen=True)
class Reference:
    """A network as a config of mmseg with changes.

    Attributes:
        config: The config, `mmseg::...`.
        changes: For `cfg_options`.
        model: The model that the config has, before the changes.
    """

    config: str
    changes: dict[str, Any]
    model: Mapping[str, Any]

    @property
    def initial_weights(self) -> str | None:
        """What the config's backbone starts from."""
        init_cfg = self.model['backbone'].get('init_cfg') or {}
        return init_cfg.get('checkpoint') or self.model.get('pretrained')


def find_reference(model: Mapping[str, Any]) -> Reference | None:
    """The config of mmseg that describes `model` with the fewest changes, if any does."""
    heads = model.get('decode_head')
    if not isinstance(heads, Mapping) or 'backbone' not in model:
        return None
    patterns = _PATTERNS.get((str(model['backbone'].get('type')), str(heads.get('type'))), ())
    best: Reference | None = None
    for pattern in patterns:
        for path in sorted(_ZOO.glob(pattern)):
            theirs = _model(path)
            changes = dict(_differences(_complete(theirs), _complete(model), 'model'))
            if any(value is REQUIRED for value in changes.values()):
                # Theirs has something that no option takes away.
                continue
            if best is None or len(changes) < len(best.changes):
                name = f'mmseg::{path.relative_to(_ZOO).as_posix()}'
                best = Reference(name, changes, theirs)
    return best if best is not None and len(best.changes) <= _MOST_CHANGES else None


@cache
def _model(path: Path) -> dict[str, Any]:
    model: dict[str, Any] = Config.fromfile(path).to_dict()['model']
    return model


def _differences(theirs: Any, ours: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Places where two dicts differ, as `cfg_options`: our value, `REQUIRED` where we have none."""
    for name in {**theirs, **ours}:
        place = f'{key}.{name}'
        value = ours.get(name, REQUIRED)
        if name in theirs and _plain(theirs[name]) == _plain(value):
            continue
        if isinstance(theirs.get(name), dict) and isinstance(value, dict):
            yield from _differences(theirs[name], value, place)
        else:
            yield place, value


def _complete(part: Any) -> Any:
    """A model with the defaults of its classes written out, so that two can be compared."""
    if isinstance(part, list | tuple):
        return type(part)(_complete(item) for item in part)
    if not isinstance(part, Mapping):
        return part
    known = find(MODELS, part.get('type'))
    found = {} if known is None else defaults(known)
    full = {k: v for k, v in {**found, **part}.items() if v is not REQUIRED and k not in _APART}
    if full.get('norm_cfg'):
        full['norm_cfg'] = {'requires_grad': True, **full['norm_cfg']}
    for key in ('train_cfg', 'test_cfg'):
        if key in full:
            full[key] = full[key] or {}
    # Settings such as norm_cfg name classes whose arguments are given elsewhere too.
    return {k: v if k.endswith('_cfg') else _complete(v) for k, v in full.items()}


def _plain(value: Any) -> Any:
    """With lists for tuples: mmseg takes either."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
