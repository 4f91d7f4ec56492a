"""The networks that a config names."""

from __future__ import annotations

from mmengine.config import Config, ConfigDict

from mmseg_kd.errors import ConfigError, Problems
from mmseg_kd.network import NetworkSpec, parse_network, parse_teachers, teacher_label


def teachers_of(cfg: Config) -> tuple[list[str], dict[str, NetworkSpec]]:
    """The names of a distillation's teachers, and what the config says of each."""
    problems = Problems()
    names, specs = parse_teachers(cfg.model.get('teacher'), problems)
    problems.raise_if_any()
    return names, specs


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
