"""The configs of the runs: the terms as a table, what differs between runs, and all of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

from mmengine.runner import Runner

from mmseg_kd.config.fields import TermFields, weight_text
from mmseg_kd.report.run import BASELINE, STUDENT, Run
from mmseg_kd.report.text import MISSING

# What differs for reasons other than the experiment.
_SKIPPED = {'work_dir', 'launcher', 'resume', 'experiment_name', 'visualizer', 'cfg'}
TERM_COLUMNS = ('loss', 'student layer', 'teacher layer', 'weight', 'schedule', 'more')


@dataclass(frozen=True)
class TermRow:
    """A line of the table of terms."""

    run: str
    name: str
    cells: list[str]


def term_rows(runs: Sequence[Run]) -> list[TermRow]:
    """The terms of all runs, as their configs have them."""
    rows = []
    for run in runs:
        terms = run.config.model.get('distillation') if run.config is not None else None
        if run.role != STUDENT or not isinstance(terms, (list, tuple)):
            continue
        specs = run.distillation.terms if run.distillation is not None else ()
        names = [spec.name for spec in specs]
        for index, term in enumerate(terms):
            if not isinstance(term, Mapping):
                continue
            # A term that is spread over several teachers has several names.
            name = names[index] if len(names) == len(terms) else term.get('name', f'term {index}')
            if len(terms) == 1 and names:
                name = ', '.join(names)
            rows.append(TermRow(run.title, str(name), _cells(term)))
    return rows


def _cells(term: Mapping[str, Any]) -> list[str]:
    shown = {'loss', 'student_layer', 'teacher_layer', 'weight', 'schedule', 'name'}
    more = {key: value for key, value in term.items() if key not in shown}
    weight = term.get('weight', TermFields.weight)
    schedules = term.get('schedule') or []
    if isinstance(schedules, Mapping):
        schedules = [schedules]
    return [
        call(term.get('loss')),
        _layers(term.get('student_layer')),
        _layers(term.get('teacher_layer')),
        weight_text(weight),
        ' · '.join(map(call, schedules)) or 'constant',
        ', '.join(f'{key}={value!r}' for key, value in more.items()) or MISSING,
    ]


def _layers(value: Any) -> str:
    return ', '.join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def call(value: Any) -> str:
    """A dict with a type as the call that it stands for: CGDLoss(tau=4.0)."""
    if not isinstance(value, Mapping) or 'type' not in value:
        return repr(value)
    kind = value['type']
    name = kind if isinstance(kind, str) else getattr(kind, '__name__', str(kind))
    return f'{name}({", ".join(f"{k}={v!r}" for k, v in value.items() if k != "type")})'


def differences(runs: Sequence[Run]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """What differs between the configs of students and baselines.

    That a baseline has no terms is what makes it one: of the terms, only what differs between
    students is listed. Variables that the runner does not read are skipped.

    Returns:
        Titles of the runs that are compared, and (place in the config, values); nothing where
        there are fewer than two runs.
    """
    compared = [r for r in runs if r.role in (STUDENT, BASELINE) and r.config is not None]
    if len(compared) < 2:
        return [], []
    read = set(signature(Runner.__init__).parameters) - _SKIPPED
    flat = [
        dict(_leaves({k: v for k, v in (run.config or {}).items() if k in read}))
        for run in compared
    ]
    rows = []
    for place in dict.fromkeys(place for one in flat for place in one):
        values = [repr(one[place]) if place in one else '' for one in flat]
        telling = values
        if f'{place}.'.startswith('model.distillation.'):
            telling = [v for v, run in zip(values, compared, strict=True) if run.role == STUDENT]
        if len(set(telling)) > 1:
            rows.append((place, values))
    return [run.title for run in compared], rows


def _leaves(node: Any, place: str = '') -> Iterator[tuple[str, Any]]:
    """The values of a config by their dotted places; lists of plain values are values."""
    items: Any = ()
    if isinstance(node, Mapping):
        items = node.items()
    elif isinstance(node, (list, tuple)) and any(isinstance(one, Mapping) for one in node):
        items = enumerate(node)
    if not items:
        yield place, node
    for key, value in items:
        yield from _leaves(value, f'{place}.{key}' if place else str(key))


def whole_config(run: Run) -> str | None:
    """A run's config as text; None where there is none."""
    if run.config_file is not None:
        return run.config_file.read_text(encoding='utf-8', errors='replace')
    kept = run.meta.get('cfg')
    return kept if isinstance(kept, str) and kept.strip() else None
