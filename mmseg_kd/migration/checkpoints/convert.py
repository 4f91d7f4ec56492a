"""Checkpoints of other code bases as checkpoints and model dicts of stock mmseg."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Literal

import torch
from mmengine.config import Config, ConfigDict
from torch import Tensor, nn

from mmseg_kd.checkpoints.load import compare, read_tensors, shape_text, tensors_below
from mmseg_kd.checkpoints.read import first_line
from mmseg_kd.checkpoints.save import atomic_write, check_format, save_weights
from mmseg_kd.errors import CheckpointError, ConfigError
from mmseg_kd.migration.checkpoints.layout import Renamed
from mmseg_kd.migration.checkpoints.segformer_keys import rename_segformer, segformer_model
from mmseg_kd.migration.checkpoints.swin_keys import rename_swin, swin_model
from mmseg_kd.networks.build import build_network, without_initialisation

Side = Literal['student', 'teacher']

LAYOUTS = (
    "SegFormer of NVIDIA and of Hugging Face, Swin of Microsoft with mmseg's heads, and mmseg's "
    'own (with a model dict, where it is neither SegFormer nor Swin with UPerNet)'
)

_READ_OFF = (
    'The model dict was read off the shapes. What shows in none, such as activations, is as in '
    "mmseg's own configs; give the model dict where it was trained with others."
)

_HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Conversion:
    """A checkpoint that fits stock mmseg.

    Attributes:
        source: The file or URL that it comes from.
        layout: The layout that it was in: 'nvidia-segformer', 'huggingface-segformer',
            'microsoft-swin' or 'mmseg'.
        model: The model dict of the segmentor, or of the backbone where the file has only that.
        state_dict: What that network loads strictly, at least in float32.
        notes: What the user should know, a sentence or two each.
    """

    source: str
    layout: str
    model: ConfigDict
    state_dict: dict[str, Tensor]
    notes: Sequence[str]


def convert_checkpoint(
    source: str, side: Side | None = None, model: ConfigDict | None = None
) -> Conversion:
    """Convert a checkpoint and check that the result loads strictly into its network.

    Args:
        source: As in `read_state_dict`: a pickle or `.safetensors`. No code in it is run.
        side: Which network of a distillation checkpoint; None: its student.
        model: The network's model dict; None: it is read off the shapes, for SegFormer and for
            Swin with UPerNet. Where the outputs of the original ask for other settings than
            it has, as `act_cfg=None` in NVIDIA's head, the result has those, and a note.

    Raises:
        CheckpointError: The file cannot be read, is in no known layout or does not fit.
        ConfigError: mmseg refuses `model`.
    """
    tensors, notes = _one_side(read_tensors(source), side, source)
    tensors = {k: v.float() if v.dtype in _HALF else v for k, v in tensors.items()}
    with _reading(source):
        renamed = rename_segformer(tensors) or rename_swin(tensors) or _as_it_is(tensors)
        notes += renamed.notes
        if model is None:
            found = segformer_model(renamed.state_dict) or swin_model(renamed.state_dict)
            if found is None:
                raise CheckpointError(
                    f'{source}: cannot tell the network. Understood are {LAYOUTS}. It has '
                    f'{_telling(tensors)}.'
                )
            settled, _ = _with_settings(found, renamed.settings)
            if renamed.layout == 'mmseg':
                notes.append(_READ_OFF)
        else:
            settled, changes = _with_settings(model, renamed.settings)
            if changes:
                notes.append(
                    f'Set in the model dict, for the outputs of the original: {", ".join(changes)}.'
                )
    try:
        network = build_network(without_initialisation(settled), 'model')
    except ConfigError as error:
        if model is not None:
            raise
        raise CheckpointError(
            f'{source}: mmseg has no network of the shapes in it ({error}).'
        ) from error
    state = _fitted(network, renamed, source, tensors)
    return Conversion(source, renamed.layout, settled, state, tuple(notes))


def _one_side(
    tensors: Mapping[str, Tensor], side: Side | None, source: str
) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of one network without its prefix, and a note on those left out."""
    sides = [s for s in ('student', 'teacher') if any(k.startswith(f'{s}.') for k in tensors)]
    if not sides and side is None:
        return dict(tensors), []
    chosen = side or 'student'
    if chosen not in sides:
        raise CheckpointError(
            f'{source}: there is no {chosen} in it, no key begins with {chosen!r} and a dot. '
            + (f'It has a {sides[0]}.' if sides else 'It holds one network: give no side.')
        )
    others = [k.split('.')[0] for k in tensors if not k.startswith(f'{chosen}.')]
    notes = [
        f'Took the {chosen}; left out {others.count(name)} tensors of {name!r}.'
        for name in dict.fromkeys(others)
    ]
    return tensors_below(tensors, f'{chosen}.'), notes


@contextmanager
def _reading(source: str) -> Iterator[None]:
    """What missing keys and impossible shapes raise becomes a `CheckpointError`."""
    try:
        yield
    except KeyError as error:
        raise CheckpointError(f'{source}: incomplete: it has nothing for {error}.') from error
    except (IndexError, RuntimeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(
            f'{source}: a tensor has an impossible shape ({first_line(error)}).'
        ) from error


def _as_it_is(tensors: Mapping[str, Tensor]) -> Renamed:
    if all(key.startswith('backbone.') for key in tensors):
        return Renamed('mmseg', tensors_below(tensors, 'backbone.'))
    return Renamed('mmseg', dict(tensors))


def _with_settings(
    model: ConfigDict, settings: Mapping[str, object]
) -> tuple[ConfigDict, list[str]]:
    """A copy of the model dict that has `settings`, and which of them it did not have."""
    model = deepcopy(ConfigDict(model))
    changes = []
    for place, value in settings.items():
        *parents, name = place.split('.')
        node = model
        for parent in parents:
            node = node.get(parent)
            if not isinstance(node, ConfigDict):
                break
        # A network that has no such part does not fit; that is found out with its tensors.
        if isinstance(node, ConfigDict) and (name not in node or node[name] != value):
            node[name] = value
            changes.append(f'{place}={value!r}')
    return model, changes


def _fitted(
    network: nn.Module, renamed: Renamed, source: str, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The renamed tensors in the order of the network, which has loaded them strictly."""
    name = type(network).__name__
    ours: dict[str, Tensor] = network.state_dict()
    theirs = renamed.state_dict
    report = compare(ours, theirs, source)
    if not report.loaded and not report.mismatched:
        raise CheckpointError(
            f'{source}: none of its tensors fits {name}. Understood are {LAYOUTS}. '
            f'It has {_telling(tensors)}.'
        )
    if report.missing or report.unexpected or report.mismatched:
        raise CheckpointError(
            f'{report}\nRead as {renamed.layout}, it must fit {name} in every tensor.'
        )
    state = {key: theirs.get(key, value).clone() for key, value in ours.items()}
    network.load_state_dict(state, strict=True)
    return state


def _telling(tensors: Mapping[str, Tensor], n: int = 10) -> str:
    """Up to `n` keys with shapes: of different parts and patterns, a weight before a bias."""
    patterns: dict[str, str] = {}
    for key, tensor in tensors.items():
        pattern = re.sub(r'\d+', '#', key.rpartition('.')[0])
        if pattern not in patterns or tensor.ndim > tensors[patterns[pattern]].ndim:
            patterns[pattern] = key
    parts: dict[str, list[str]] = {}
    for pattern, key in patterns.items():
        parts.setdefault('.'.join(pattern.split('.')[:2]), []).append(key)
    in_turn = [key for key in chain(*zip_longest(*parts.values())) if key is not None]
    shown = [f'{key} ({shape_text(tensors[key].shape)})' for key in in_turn[:n]]
    rest = len(tensors) - len(shown)
    return ', '.join(shown) + (f' and {rest} more' if rest else '')


def save_conversion(conversion: Conversion, target: Path) -> tuple[Path, Path]:
    """Write the checkpoint and, beside it, a config with its `model = dict(...)`.

    Both are there as a whole or not at all; files of the same names are replaced.

    Args:
        target: The checkpoint, `.pth` or `.safetensors`; its folder is made where it is missing.

    Returns:
        The checkpoint, and the config of the same name with `.py`.

    Raises:
        CheckpointError: `target` has another ending, or cannot be written.
    """
    target = Path(target)
    check_format(target)
    meta = dict(source=conversion.source, layout=conversion.layout, notes=list(conversion.notes))
    about = [f'Converted from {conversion.source} ({conversion.layout}).', *conversion.notes]
    comments = ''.join(f'# {line}\n' for line in '\n'.join(about).splitlines())
    text = comments + Config(dict(model=conversion.model.to_dict())).pretty_text
    config = target.with_suffix('.py')
    with atomic_write(config) as partial_config:
        partial_config.write_text(text, encoding='utf-8')
        save_weights(conversion.state_dict, target, meta)
    return target, config
