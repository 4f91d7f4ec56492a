"""A teacher's or student's network: from the config dict to the module, and to its taps."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import mmseg
import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmseg_kd.errors import ConfigError, Problems, is_name, nearest
from mmseg_kd.recorder import ForwardStopped, Recorder
from mmseg_kd.teacher_options import OPTION_NAMES, TeacherOptions, parse_teacher_options

# Large enough for every backbone's total stride, small enough to cost nothing.
PROBE_SIZE = (128, 128)


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
        name = one.get('name') if isinstance(one, Mapping) else None
        name = f'teacher{index}' if name is None else name
        names.append(name)
        with problems:
            if not isinstance(one, Mapping):
                raise ConfigError(f'{where}: expected a dict, got {one!r}.')
            if not is_name(name):
                raise ConfigError(
                    f"{where}.name: expected letters, digits, '_' and '-', got {name!r}."
                )
            if names.count(name) > 1:
                raise ConfigError(f'{where}.name: {name!r} is the name of another teacher.')
            rest = {k: v for k, v in one.items() if k != 'name'}
            specs[name] = parse_network(rest, where, is_teacher=True)
    return names, specs


def parse_network(cfg: Any, side: str, is_teacher: bool = False) -> NetworkSpec:
    """Read a teacher's or the student's dict.

    Either an inline model (`type='EncoderDecoder', ...`) or `config=`, the path of an mmseg
    config or `mmseg::...` for the zoo inside the installed mmseg, with optional `cfg_options=`.
    Both may have `checkpoint=`, `strict=` and, for a teacher, `input_size=` and what
    `TeacherOptions` has.

    Raises:
        ConfigError: A key is unknown or a value is not what it must be.
    """
    if not isinstance(cfg, Mapping):
        raise ConfigError(f'{side}: expected a dict, got {cfg!r}.')
    own = {'checkpoint', 'strict'} | ({'input_size', *OPTION_NAMES} if is_teacher else set())
    options = {key: cfg[key] for key in own - {*OPTION_NAMES} if key in cfg}
    rest = {k: v for k, v in cfg.items() if k not in own}
    if 'config' in rest:
        known = {'config', 'cfg_options', '_scope_'}
        for key in rest:
            if key not in known:
                raise ConfigError(
                    f'{side}: unknown key {key!r}; {nearest(key, (own | known) - {"_scope_"})}. '
                    'A key of the network itself goes into cfg_options.'
                )
        model = _model_of(rest['config'], rest.get('cfg_options'), side)
    elif 'type' in rest:
        model = ConfigDict(rest)
    else:
        raise ConfigError(
            f"{side}: expected config='...' or an inline model with type='...', "
            f'got the keys {sorted(map(str, rest))}.'
        )
    checkpoint = options.get('checkpoint')
    if checkpoint is not None and not isinstance(checkpoint, str):
        raise ConfigError(f'{side}.checkpoint: expected a path or URL, got {checkpoint!r}.')
    if not isinstance(options.get('strict', True), bool):
        raise ConfigError(f'{side}.strict: expected True or False, got {options["strict"]!r}.')
    size = options.get('input_size')
    if size is not None:
        if not (isinstance(size, (tuple, list)) and len(size) == 2):
            raise ConfigError(f'{side}.input_size: expected (height, width), got {size!r}.')
        options['input_size'] = tuple(size)
    if is_teacher:
        options['options'] = parse_teacher_options(cfg, side)
    return NetworkSpec(model=model, **options)


def config_path(name: str) -> Path:
    """The file of a config: a path, or `mmseg::...` inside the installed mmseg.

    Raises:
        ConfigError: There is no such file; the message has the nearest names.
    """
    if not name.startswith('mmseg::'):
        path = Path(name)
        if not path.is_file():
            raise ConfigError(f'there is no config file {name!r} (seen from {Path.cwd()}).')
        return path
    zoo = Path(mmseg.__file__).parent / '.mim' / 'configs'
    path = zoo / name.removeprefix('mmseg::')
    if not path.is_file():
        names = [p.relative_to(zoo).as_posix() for p in zoo.rglob('*.py')]
        raise ConfigError(
            f'mmseg {mmseg.__version__} has no config {name!r}; '
            f'{nearest(path.relative_to(zoo).as_posix(), names)}.'
        )
    return path


def _model_of(name: Any, cfg_options: Any, side: str) -> ConfigDict:
    if not isinstance(name, str):
        raise ConfigError(f'{side}.config: expected a path or mmseg::..., got {name!r}.')
    if cfg_options is not None and not isinstance(cfg_options, Mapping):
        raise ConfigError(f'{side}.cfg_options: expected a dict, got {cfg_options!r}.')
    try:
        config = Config.fromfile(config_path(name))
        if cfg_options:
            config.merge_from_dict(dict(cfg_options))
    except ConfigError as error:
        raise ConfigError(f'{side}.config: {error}') from error
    except Exception as error:  # a config is code: anything can be raised in it
        raise ConfigError(f'{side}.config: {name}: {type(error).__name__}: {error}') from error
    model = config.get('model')
    if not isinstance(model, Mapping) or 'type' not in model:
        raise ConfigError(f'{side}.config: {name} has no model = dict(type=..., ...).')
    if model['type'] == 'DistillationWrapper':
        # A network that was itself distilled is described by its student.
        return parse_network(model['student'], 'student').model
    return ConfigDict(model)


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
    """Build a segmentor, an `nn.Module` with mmseg's interface, from its model dict.

    Raises:
        ConfigError: mmseg refused it.
    """
    if not torch.cuda.is_available():
        model = replace_sync_bn(model)
    try:
        return MODELS.build(model)
    except Exception as error:  # whatever a class of mmseg, timm or the user raises
        raise ConfigError(f'{side}: {type(error).__name__}: {error}') from error


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
