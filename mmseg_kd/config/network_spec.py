"""What a config says of a network: a teacher's or the student's dict, read and checked."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from mmseg_kd.checks import is_integer, is_name
from mmseg_kd.config.fields import NetworkFields, TeacherFields, keys_of
from mmseg_kd.config.file import apply_options, config_path, read_config_file
from mmseg_kd.config.teacher_options import OPTION_NAMES, TeacherOptions, parse_teacher_options
from mmseg_kd.errors import ConfigError, Problems, nearest, short_repr

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
                raise ConfigError(f'{where}: expected a dict, got {short_repr(one)}.')
            if not (given is None or is_name(given)):
                raise ConfigError(
                    f"{where}.name: expected letters, digits, '_' and '-', got {short_repr(given)}."
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
        raise ConfigError(f'{side}: expected a dict, got {short_repr(cfg)}.')
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
            ConfigError(f'{side}.checkpoint: expected a path or URL, got {short_repr(checkpoint)}.')
        )
    if not isinstance(options.get('strict', True), bool):
        problems.add(
            ConfigError(
                f'{side}.strict: expected True or False, got {short_repr(options["strict"])}.'
            )
        )
    size = options.get('input_size')
    if size is not None:
        if _is_size(size):
            options['input_size'] = tuple(size)
        else:
            problems.add(
                ConfigError(
                    f'{side}.input_size: expected (height, width), two whole numbers >= 1, got '
                    f'{short_repr(size)}.'
                )
            )
    if is_teacher:
        with problems:
            options['options'] = parse_teacher_options(cfg, side)
    problems.raise_if_any()
    return NetworkSpec(model=model, **options)


def _is_size(value: Any) -> bool:
    is_pair = isinstance(value, (tuple, list)) and len(value) == 2
    return is_pair and all(is_integer(side) and side >= 1 for side in value)


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
        raise ConfigError(f'{side}.config: expected a path or mmseg::..., got {short_repr(name)}.')
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


def teachers_of(cfg: Config) -> tuple[list[str], dict[str, NetworkSpec]]:
    """The names of a distillation's teachers, and what the config says of each."""
    problems = Problems()
    names, specs = parse_teachers(cfg.model.get('teacher'), problems)
    problems.raise_if_any()
    return names, specs


def teacher_of(cfg: Config, name: str | None) -> NetworkSpec:
    """A teacher of a config.

    Args:
        cfg: The config.
        name: Its name; None: the only one there is.

    Raises:
        ConfigError: There is none, or none of this name, or a name is needed.
    """
    names, specs = teachers_of(cfg) if is_distillation(cfg) else ([], {})
    if not names:
        raise ConfigError('--teacher: the config is no distillation with a teacher.')
    if name is None and len(names) == 1:
        return specs[names[0]]
    if name not in names:
        given = 'no name' if name is None else repr(name)
        raise ConfigError(
            f'--teacher: got {given}, expected one of {", ".join(names)}. A checkpoint goes before '
            '--teacher.'
        )
    return specs[name]


def _student_of(cfg: Config) -> NetworkSpec:
    """What a distillation's config says of its student."""
    if cfg.model.get('student') is None:
        raise ConfigError('the config has no student.')
    spec = parse_network(cfg.model['student'], 'student')
    if cfg.model.get('data_preprocessor') is not None:
        spec.model['data_preprocessor'] = cfg.model['data_preprocessor']
    return spec


def is_distillation(cfg: Config) -> bool:
    """Whether a config has a student and teachers, and no model of its own."""
    return bool(cfg.model.get('type') == 'DistillationWrapper')


def networks_of(cfg: Config) -> dict[str, NetworkSpec]:
    """The networks of a config, by what messages call them.

    These are the teachers ('teacher', or "teacher 'NAME'" where there are several) and the
    'student' of a distillation, or the 'model' of any other config.

    Raises:
        ConfigError: A network cannot be read; `ManyErrors` where that is more than one.
    """
    if not is_distillation(cfg):
        return {'model': NetworkSpec(ConfigDict(cfg.model))}
    problems = Problems()
    found: dict[str, NetworkSpec] = {}
    with problems:
        names, specs = teachers_of(cfg)
        found = {teacher_label(name, len(names)): specs[name] for name in names}
    with problems:
        found['student'] = _student_of(cfg)
    problems.raise_if_any()
    return found


def trained_network_of(cfg: Config) -> NetworkSpec:
    """The network of a config that is trained: the student, or the model itself."""
    return _student_of(cfg) if is_distillation(cfg) else NetworkSpec(ConfigDict(cfg.model))
