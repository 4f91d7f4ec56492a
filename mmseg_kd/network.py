"""A teacher's or student's network: from the config dict to the module, and to its taps."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmseg.models.segmentors.base import BaseSegmentor
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmseg_kd.checks import is_name, is_whole
from mmseg_kd.config_file import apply_options, config_path, read_config_file
from mmseg_kd.errors import ConfigError, Problems, nearest, shown
from mmseg_kd.fields import NetworkFields, TeacherFields, keys_of
from mmseg_kd.host.quiet import explain
from mmseg_kd.recorder import ForwardStopped, Recorder
from mmseg_kd.registry import look_up
from mmseg_kd.teacher_options import OPTION_NAMES, TeacherOptions, parse_teacher_options

# Large enough for every backbone's total stride, small enough to cost nothing.
PROBE_SIZE = (128, 128)

# Keys that lead to a network which stands in another config.
_SOURCE = ('config', 'cfg_options')


@dataclass(frozen=True)
class NetworkSpec:
    """What a config says of a network.

    Attributes:
        model: mmseg's model dict.
        checkpoint: File or https URL with its weights; None: as initialised.
        strict: Whether tensors that are missing or of another shape are an error.
        input_size: Height and width that the images are scaled to for this network; None: as
            they come.
        options: How a teacher is run.
    """

    model: ConfigDict
    checkpoint: str | None = None
    strict: bool = True
    input_size: tuple[int, int] | None = None
    options: TeacherOptions = field(default_factory=TeacherOptions)


def teacher_label(name: str, count: int) -> str:
    """What messages call one of `count` teachers."""
    return 'teacher' if count == 1 else f'teacher {name!r}'


def parse_teachers(cfg: Any, problems: Problems) -> tuple[list[str], dict[str, NetworkSpec]]:
    """Read `teacher=dict(...)`, or a list of such dicts, each with an optional `name`.

    Args:
        cfg: The dict or list; None: there is no teacher.
        problems: Gets all that is wrong with it.

    Returns:
        The names, 'teacher' or by default 'teacher0', 'teacher1' and so on in a list; and, by
        name, what can be read.
    """
    if cfg is None or (isinstance(cfg, (list, tuple)) and not cfg):
        return [], {}
    if not isinstance(cfg, (list, tuple)):
        spec: dict[str, NetworkSpec] = {}
        with problems:
            if isinstance(cfg, Mapping) and 'name' in cfg:
                raise ConfigError('teacher.name goes with a list of teachers: teacher=[dict(...)].')
            spec['teacher'] = parse_network(cfg, 'teacher', is_teacher=True)
        return ['teacher'], spec
    names: list[str] = []
    specs: dict[str, NetworkSpec] = {}
    for index, one in enumerate(cfg):
        where = f'teacher[{index}]'
        # Terms that name a teacher by its index or name find it, whatever else is wrong with it.
        given = one.get('name') if isinstance(one, Mapping) else None
        name = given if isinstance(given, str) else f'teacher{index}'
        names.append(name)
        with problems:
            if not isinstance(one, Mapping):
                raise ConfigError(f'{where}: expected a dict, got {shown(one)}.')
            if not (given is None or is_name(given)):
                raise ConfigError(
                    f"{where}.name: expected letters, digits, '_' and '-', got {shown(given)}."
                )
            if names.count(name) > 1:
                raise ConfigError(f'{where}.name: {name!r} is the name of another teacher.')
            rest = {k: v for k, v in one.items() if k != 'name'}
            specs[name] = parse_network(rest, where, is_teacher=True)
    return names, specs


def parse_network(
    cfg: Any, side: str, is_teacher: bool = False, within: tuple[Path, ...] = ()
) -> NetworkSpec:
    """Read a teacher's or the student's dict.

    Either an inline model (`type='EncoderDecoder', ...`) or `config=`, the path of an mmseg
    config or `mmseg::...` for the zoo inside the installed mmseg, with optional `cfg_options=`.
    Both may have `checkpoint=`, `strict=` and, for a teacher, `input_size=` and what
    `TeacherOptions` has.

    Args:
        cfg: The dict.
        side: What messages call the network.
        is_teacher: Whether it may have what only a teacher has.
        within: Configs whose network this is.

    Raises:
        ConfigError: A key is unknown or a value is not what it must be; `ManyErrors` where that
            is more than one.
    """
    if not isinstance(cfg, Mapping):
        raise ConfigError(f'{side}: expected a dict, got {shown(cfg)}.')
    own = {*keys_of(NetworkFields)} - {*_SOURCE}
    if is_teacher:
        own |= {*keys_of(TeacherFields), *OPTION_NAMES} - {'name'}
    options = {key: cfg[key] for key in own - {*OPTION_NAMES} if key in cfg}
    rest = {k: v for k, v in cfg.items() if k not in own}
    problems = Problems()
    model = ConfigDict()
    with problems:
        model = _parse_model(rest, own, side, within)
    checkpoint = options.get('checkpoint')
    if checkpoint is not None and not isinstance(checkpoint, str):
        problems.add(
            ConfigError(f'{side}.checkpoint: expected a path or URL, got {shown(checkpoint)}.')
        )
    if not isinstance(options.get('strict', True), bool):
        problems.add(
            ConfigError(f'{side}.strict: expected True or False, got {shown(options["strict"])}.')
        )
    size = options.get('input_size')
    if size is not None:
        if _is_size(size):
            options['input_size'] = tuple(size)
        else:
            problems.add(
                ConfigError(
                    f'{side}.input_size: expected (height, width), two whole numbers >= 1, got '
                    f'{shown(size)}.'
                )
            )
    if is_teacher:
        with problems:
            options['options'] = parse_teacher_options(cfg, side)
    problems.raise_if_any()
    return NetworkSpec(model=model, **options)


def _is_size(value: Any) -> bool:
    is_pair = isinstance(value, (tuple, list)) and len(value) == 2
    return is_pair and all(is_whole(side) and side >= 1 for side in value)


def _parse_model(
    cfg: Mapping[str, Any], own: Collection[str], side: str, within: tuple[Path, ...]
) -> ConfigDict:
    """The model dict that a network's dict is or leads to.

    Args:
        cfg: The network's dict without the keys of `own`.
        own: What else it may have, for messages.
        side, within: As in `parse_network`.
    """
    if 'config' not in cfg:
        if 'type' not in cfg:
            raise ConfigError(
                f"{side}: expected config='...' or an inline model with type='...', "
                f'got the keys {sorted(map(str, cfg))}.'
            )
        if cfg['type'] == 'DistillationWrapper':
            raise ConfigError(
                f'{side}: expected a network, got a DistillationWrapper; give the one that it '
                'trains, its student.'
            )
        return ConfigDict(cfg)
    problems = Problems()
    for key in cfg:
        if key not in (*_SOURCE, '_scope_'):
            problems.add(
                ConfigError(
                    f'{side}: unknown key {key!r}; {nearest(key, sorted({*own, *_SOURCE}))}. '
                    'A key of the network itself goes into cfg_options.'
                )
            )
    model = ConfigDict()
    with problems:
        model = _model_of(cfg['config'], cfg.get('cfg_options'), side, within)
    problems.raise_if_any()
    return model


def _model_of(name: Any, cfg_options: Any, side: str, within: tuple[Path, ...]) -> ConfigDict:
    """The model dict of a config."""
    if not isinstance(name, str):
        raise ConfigError(f'{side}.config: expected a path or mmseg::..., got {shown(name)}.')
    try:
        path = config_path(name).resolve()
        config = read_config_file(name)
    except ConfigError as error:
        raise ConfigError(f'{side}.config: {error}') from error
    options = {} if cfg_options is None else cfg_options
    apply_options(config, options, f'{side}.cfg_options')
    for place in options:
        if place.split('.')[0] != 'model':
            raise ConfigError(
                f'{side}.cfg_options: {place!r} changes nothing of the network; expected names '
                "that begin with 'model.'."
            )
    model = config.get('model')
    if not isinstance(model, Mapping) or 'type' not in model:
        raise ConfigError(f'{side}.config: {name} has no model = dict(type=..., ...).')
    if model['type'] != 'DistillationWrapper':
        return ConfigDict(model)
    # A network that was itself distilled is described by its student.
    if path in within:
        raise ConfigError(f'{side}.config: {name} is the config of a distillation of itself.')
    student = parse_network(model.get('student'), f'{side}.config: student', within=(*within, path))
    return student.model


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
        _say_once('There is no CUDA: BN takes the place of SyncBN.')
    return replaced


@cache
def _say_once(text: str) -> None:
    print_log(text, logger='current')


def build_network(model: ConfigDict, side: str) -> Any:
    """Build a network, an `nn.Module` with mmseg's interface, from its model dict.

    Raises:
        ConfigError: mmseg refused it.
    """
    if not torch.cuda.is_available():
        model = replace_sync_bn(model)
    look_up(MODELS, model, side)
    try:
        return MODELS.build(model)
    except Exception as error:  # whatever a class of mmseg, timm or the user raises
        raise ConfigError(f'{side}: {explain(error)}') from error


def build_segmentor(model: ConfigDict, side: str) -> Any:
    """Build a network that segments.

    Raises:
        ConfigError: mmseg refused it, or it is only a part of one, such as a backbone.
    """
    network = build_network(model, side)
    if not isinstance(network, BaseSegmentor):
        raise ConfigError(
            f'{side}: expected a segmentor such as EncoderDecoder, got {type(network).__name__}.'
        )
    return network


def without_initialisation(model: Any) -> Any:
    """The model dict without what would fetch weights: the checkpoint has them all."""
    if isinstance(model, dict):
        cleaned = {k: without_initialisation(v) for k, v in model.items() if k != 'init_cfg'}
        if 'pretrained' in cleaned:
            cleaned['pretrained'] = False if cleaned.get('type') == 'TIMMBackbone' else None
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


def run_auxiliary_heads(network: Any, features: Any) -> None:
    """Run the heads that mmseg runs in training only, where there are any.

    As mmseg does, by their `forward`: hooks on a head itself do not fire.
    """
    heads = getattr(network, 'auxiliary_head', None) or []
    for head in heads if isinstance(heads, nn.ModuleList | list) else [heads]:
        head.forward(features)


@contextmanager
def kept_features(network: Any, stop: bool = False) -> Iterator[list[Any]]:
    """A list that gets what the heads of `network` are fed with, as soon as it is there.

    Args:
        stop: Raise `ForwardStopped` then.
    """
    features: list[Any] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        features.append(output)
        if stop:
            raise ForwardStopped

    source = network.get_submodule('neck' if network.with_neck else 'backbone')
    handle = source.register_forward_hook(keep)
    try:
        yield features
    finally:
        handle.remove()


def run_whole(network: Any, images_NCHW: Tensor, auxiliary: bool) -> Any:
    """What tensor mode gives: for most networks scores (N, C, h, w).

    Args:
        auxiliary: Run the auxiliary heads too, which mmseg leaves out in this mode.
    """
    with kept_features(network) as features:
        scores = network(images_NCHW, mode='tensor')
    if auxiliary:
        run_auxiliary_heads(network, features[-1])
    return scores


def is_auxiliary(layer: str) -> bool:
    """Whether a layer is in an auxiliary head."""
    return layer.split('.')[0] == 'auxiliary_head'


def run_to_layers(
    network: Any,
    images_NCHW: Tensor,
    layers: Collection[str],
    clone: Collection[str] = (),
) -> dict[str, Tensor]:
    """The outputs of `layers`, running no further than to the last of them.

    The network runs in tensor mode, in which mmseg leaves auxiliary heads out; those are run
    on the same features where a layer of theirs is asked for. A layer that does not run is
    absent from the result.
    """
    auxiliary = [name for name in layers if is_auxiliary(name)]
    main = [name for name in layers if name not in auxiliary]
    if not auxiliary:
        with Recorder(network, main, clone, stop=True) as taps:
            with suppress(ForwardStopped):
                network(images_NCHW, mode='tensor')
            return taps.outputs
    with (
        Recorder(network, main, clone) as taps,
        Recorder(network, auxiliary, clone, stop=True) as auxiliary_taps,
        kept_features(network, stop=not main) as features,
    ):
        with suppress(ForwardStopped):
            network(images_NCHW, mode='tensor')
        with suppress(ForwardStopped):
            run_auxiliary_heads(network, features[-1])
        return taps.outputs | auxiliary_taps.outputs
