"""A distillation without the names of other configs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmseg_kd.config.network_spec import from_run, parse_network, unnamed
from mmseg_kd.errors import Problems


def resolved(model: Mapping[str, Any]) -> dict[str, Any]:
    """A distillation's model with each network in the place of the config that it names.

    Raises:
        ConfigError: A network cannot be read; `ManyErrors` where that is more than one.
    """
    problems = Problems()

    def resolve(network: Any, side: str, is_teacher: bool) -> Any:
        with problems:
            network = from_run(network, side)
            spec = parse_network(unnamed(network), side, is_teacher)
            if spec.kind != 'frozen':
                return dict(network)
            own = {k: v for k, v in network.items() if k not in ('config', 'cfg_options')}
            return {**own, **spec.model.to_dict()}
        return network

    whole = dict(model)
    teacher = whole.get('teacher')
    if isinstance(teacher, list | tuple):
        whole['teacher'] = [resolve(t, f'teacher[{i}]', True) for i, t in enumerate(teacher)]
    elif teacher is not None:
        whole['teacher'] = resolve(teacher, 'teacher', True)
    whole['student'] = resolve(whole.get('student') or {}, 'student', False)
    problems.raise_if_any()
    return whole
