"""What a config says of a network: a teacher's or the student's dict, read and checked."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from mmseg_kd.checks import is_name
from mmseg_kd.config.fields import (
    OWN_TEACHERS,
    EMATeacherFields,
    Kind,
    NetworkFields,
    TeacherFields,
    keys_of,
    read_fields,
)
from mmseg_kd.config.file import apply_options, config_path, read_config_file
from mmseg_kd.config.input_scaling import InputScaling
from mmseg_kd.config.teacher_options import TeacherOptions, parse_teacher_options
from mmseg_kd.errors import ConfigError, KDError, Problems, nearest, short_repr
from mmseg_kd.runs.work_dir import read_work_dir

# Keys that lead to a network which stands in another config.
_SOURCE = ('config', 'cfg_options')


@dataclass(frozen=True)
class NetworkSpec:
    """What a config says of a network.

    Attributes:
        model: mmseg's model dict.
        checkpoint: File or https URL with its weights; None: as initialised.
        strict: Whether tensors that are missing or of another shape are an error.
        scaling: What the images are scaled to for this network.
        options: How a teacher is run.
        classes: Names of its classes; None: the config does not say.
        class_map: A teacher's classes by the student's, as the config has them.
        kind: 'frozen', or what a teacher that is the student is called; `model` is the student's.
        momentum: Of an EMATeacher.
        stored: Whether a teacher's scores come with the images.
    """

    model: ConfigDict
    checkpoint: str | None = None
    strict: bool = True
    scaling: InputScaling = field(default_factory=InputScaling)
    options: TeacherOptions = field(default_factory=TeacherOptions)
    classes: tuple[str, ...] | None = None
    class_map: Mapping[Any, Any] | None = None
    kind: Kind = 'frozen'
    momentum: float = 0.0
    stored: bool = False


def teacher_label(name: str, count: int) -> str:
    """What messages call one of `count` teachers."""
    return 'teacher' if count == 1 else f'teacher {name!r}'


def parse_teachers(cfg: Any, problems: Problems) -> tuple[list[str], dict[str, NetworkSpec]]:
    """Read `teacher=dict(...)`, or a list of such dicts, each with an optional `name`.

    The work dir of a run stands for `dict(run=...)`.

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
            if not (given is None or is_name(given)):
                raise ConfigError(
                    f"{where}.name: expected letters, digits, '_' and '-', got {short_repr(given)}."
                )
            if names.count(name) > 1:
                raise ConfigError(f'{where}.name: {name!r} is the name of another teacher.')
            rest = unnamed(one)
            specs[name] = parse_network(rest, where, is_teacher=True)
    return names, specs


def unnamed(teacher: Any) -> Any:
    """A teacher of a list without its name, which is read elsewhere."""
    if not isinstance(teacher, Mapping):
        return teacher
    return {k: v for k, v in teacher.items() if k != 'name'}


def from_run(cfg: Any, side: str) -> Any:
    """A network's dict with the config and the checkpoint of the run that it names, if it does.

    Args:
        cfg: The dict, or the work dir alone.
        side: What messages call the network.

    Raises:
        ConfigError, CheckpointError: There is no such run; or there is a `config` too.
    """
    cfg = dict(run=cfg) if isinstance(cfg, str) else cfg
    if not isinstance(cfg, Mapping) or not isinstance(cfg.get('run'), str):
        return cfg
    if 'config' in cfg or 'type' in cfg:
        raise ConfigError(f'{side}.run: stands in the place of a config or a type; omit one.')
    try:
        run = read_work_dir(cfg['run'])
    except KDError as error:
        raise type(error)(f'{side}.run: {error}') from error
    rest = {k: v for k, v in cfg.items() if k != 'run'}
    return dict(config=str(run.config), checkpoint=str(run.checkpoint)) | rest


def with_student(
    teachers: Mapping[str, NetworkSpec], student: NetworkSpec | None
) -> dict[str, NetworkSpec]:
    """The teachers, those that are the student with its network."""
    model = ConfigDict() if student is None else student.model
    return {
        name: spec if spec.kind == 'frozen' else replace(spec, model=model)
        for name, spec in teachers.items()
    }


def parse_network(
    cfg: Any, side: str, is_teacher: bool = False, within: tuple[Path, ...] = ()
) -> NetworkSpec:
    """Read a teacher's or the student's dict.

    Either an inline model (`type='EncoderDecoder', ...`) or `config=`, the path of an mmseg
    config or `mmseg::...` for the zoo inside the installed mmseg, with optional `cfg_options=`.
    Both may have `checkpoint=`, `strict=` and, for a teacher, what `TeacherFields` and
    `TeacherOptions` have. Or `run=`, the work dir of a run; it alone may stand there as text. A
    teacher may be the student: `type='EMATeacher'` or `'SelfTeacher'`.

    Args:
        cfg: The dict.
        side: What messages call the network.
        is_teacher: Whether it may have what only a teacher has.
        within: Configs whose network this is.

    Raises:
        ConfigError: A key is unknown or a value is not what it must be; `ManyErrors` where that
            is more than one.
    """
    cfg = from_run(cfg, side)
    if not isinstance(cfg, Mapping):
        raise ConfigError(f'{side}: expected a dict, got {short_repr(cfg)}.')
    if is_teacher and cfg.get('type') in OWN_TEACHERS:
        return _parse_own(cfg, side)
    kinds = [NetworkFields, TeacherFields, TeacherOptions] if is_teacher else [NetworkFields]
    own = {name for kind in kinds for name in keys_of(kind)} - {*_SOURCE, 'name'}
    # Of a student's inline model these would be arguments.
    of_teacher = cfg if is_teacher else {}
    problems = Problems()
    network = read_fields(NetworkFields, cfg, side, problems)
    model = ConfigDict()
    with problems:
        rest = {k: v for k, v in cfg.items() if k not in own}
        model = _parse_model(rest, network, own, side, within)
    teacher = read_fields(TeacherFields, of_teacher, side, problems)
    scaling, classes, options = InputScaling(), None, TeacherOptions()
    with problems:
        scaling = _scaling(teacher, side)
    with problems:
        classes = _classes(network.classes, side)
    with problems:
        options = parse_teacher_options(of_teacher, side)
    problems.raise_if_any()
    return NetworkSpec(
        model,
        network.checkpoint,
        network.strict,
        scaling,
        options,
        classes,
        teacher.class_map,
        stored=teacher.stored,
    )


def parse_student(cfg: Any, data_preprocessor: Any) -> NetworkSpec:
    """As `parse_network`; the wrapper's data preprocessor takes the place of the student's."""
    spec = parse_network(cfg, 'student')
    if data_preprocessor is not None:
        spec.model['data_preprocessor'] = data_preprocessor
    return spec


def _parse_own(cfg: Mapping[str, Any], side: str) -> NetworkSpec:
    """A teacher that is the student; its model is filled in by `with_student`."""
    kind = cfg['type']
    known: tuple[str, ...] = ()
    if kind == 'EMATeacher':
        sizes = ('input_size', 'input_scale', 'size_divisor')
        options = [name for name in keys_of(TeacherOptions) if name != 'fold_bn']
        known = (*keys_of(EMATeacherFields), *sizes, *options)
    problems = Problems()
    for name in cfg:
        if name not in (*known, 'type'):
            hint = f'; {nearest(name, known)}' if known else ''
            problems.add(f'{side}: {kind} has no key {name!r}{hint}.')
    given = {k: v for k, v in cfg.items() if k in known}
    momentum = read_fields(EMATeacherFields, given, side, problems).momentum
    scaling, chosen = InputScaling(), TeacherOptions()
    with problems:
        scaling = _scaling(read_fields(TeacherFields, given, side, problems), side)
    with problems:
        # Its weights change, so that nothing can be folded into them.
        chosen = replace(parse_teacher_options(given, side), fold_bn=False)
    problems.raise_if_any()
    return NetworkSpec(ConfigDict(), None, True, scaling, chosen, kind=kind, momentum=momentum)


def _scaling(teacher: TeacherFields, side: str) -> InputScaling:
    if teacher.input_size is not None and teacher.input_scale is not None:
        raise ConfigError(f'{side}: input_size and input_scale are two ways; omit one.')
    size = None if teacher.input_size is None else (teacher.input_size[0], teacher.input_size[1])
    return InputScaling(size, teacher.input_scale or 1.0, teacher.size_divisor)


def _classes(given: str | Sequence[str] | None, side: str) -> tuple[str, ...] | None:
    """Names of classes; those of a data set by what mmseg calls it."""
    if not isinstance(given, str):
        return None if given is None else tuple(given)
    from mmseg.utils.class_names import dataset_aliases, get_classes

    known = [alias for aliases in dataset_aliases.values() for alias in aliases]
    if given not in known:
        raise ConfigError(
            f'{side}.classes: mmseg has no names for a data set {given!r}; '
            f'{nearest(given, known)}. Give a list of names.'
        )
    return tuple(get_classes(given))


def _parse_model(
    cfg: Mapping[str, Any],
    network: NetworkFields,
    own: Collection[str],
    side: str,
    within: tuple[Path, ...],
) -> ConfigDict:
    """The model dict that a network's dict is or leads to; empty where its `config` is wrong.

    Args:
        cfg: The network's dict without the keys of `own`.
        network: What is read of it.
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
                f'{side}: unknown key {key!r}; {nearest(key, sorted({*own, *_SOURCE}))}. '
                'A key of the network itself goes into cfg_options.'
            )
    model = ConfigDict()
    with problems:
        if network.config is not None:
            model = _model_of(network.config, network.cfg_options or {}, side, within)
    problems.raise_if_any()
    return model


def _model_of(
    name: str, options: Mapping[str, Any], side: str, within: tuple[Path, ...]
) -> ConfigDict:
    """The model dict of a config."""
    try:
        path = config_path(name).resolve()
        config = read_config_file(name)
    except ConfigError as error:
        raise ConfigError(f'{side}.config: {error}') from error
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
    if any(spec.kind != 'frozen' for spec in specs.values()):
        specs = with_student(specs, _student_of(cfg))
    return names, specs


def teacher_of(cfg: Config, name: str | None) -> NetworkSpec:
    """A teacher of a config.

    Args:
        cfg: The config.
        name: Its name; None: the only one there is.

    Raises:
        ConfigError: There is none, or none of this name, or a name is needed; or it is the student.
    """
    names, specs = teachers_of(cfg) if is_distillation(cfg) else ([], {})
    if not names:
        raise ConfigError('--teacher: the config is no distillation with a teacher.')
    if name is None and len(names) == 1:
        name = names[0]
    if name not in names:
        given = 'no name' if name is None else repr(name)
        raise ConfigError(
            f'--teacher: got {given}, expected one of {", ".join(names)}. A checkpoint goes before '
            '--teacher.'
        )
    if specs[name].kind != 'frozen':
        raise ConfigError(
            f'--teacher: it is the student itself ({specs[name].kind}); omit --teacher.'
        )
    return specs[name]


def _student_of(cfg: Config) -> NetworkSpec:
    """What a distillation's config says of its student."""
    if cfg.model.get('student') is None:
        raise ConfigError('the config has no student.')
    return parse_student(cfg.model['student'], cfg.model.get('data_preprocessor'))


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
