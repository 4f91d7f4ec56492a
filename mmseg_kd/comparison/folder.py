"""From a plan to the folder of its runs, or on with the one that is there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmseg_kd.checkpoints.save import atomic_write
from mmseg_kd.comparison.plan import Plan
from mmseg_kd.config.fields import OWN_TEACHERS
from mmseg_kd.config.file import read_config_file
from mmseg_kd.config.load import runner_keys
from mmseg_kd.errors import ConfigError, Problems
from mmseg_kd.runs.comparison import TEACHER, Comparison, is_comparison, read_comparison

# How many places a message names.
MOST_NAMED = 6
# What of a config says which teacher is tested, and on what.
_OF_TEACHER = ('model.teacher', 'test_', 'val_')


def begin(plan: Plan, folder: Path) -> Comparison:
    """Write what each run trains, and what the folder is; what is there already is kept.

    Methods and seeds that were compared before stay in the comparison.

    Raises:
        ConfigError: What is there is of another plan; `ManyErrors` where that is so of more than
            one method. Nothing is written then.
    """
    has_teacher = len(plan.teachers) == 1 and _can_be_tested(plan.teachers[0].model.teacher)
    methods = {name: int(cfg.train_cfg.max_iters) for name, cfg in plan.methods.items()}
    new = Comparison(
        folder, plan.file, plan.baseline, methods, plan.seeds, has_teacher, plan.seconds
    )
    comparison = _joined(new, folder)
    texts = {name: str(cfg.pretty_text) for name, cfg in plan.methods.items()}
    if has_teacher:
        texts[TEACHER] = str(plan.teachers[0].pretty_text)
    problems = Problems()
    configs = {run.config: run.method for run in new.runs()}
    for file, method in configs.items():
        if file.exists():
            with problems:
                check_same(file, texts[method], method, _OF_TEACHER if method == TEACHER else ())
    problems.raise_if_any()
    for file, method in configs.items():
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(file) as unfinished:
                unfinished.write_text(texts[method], encoding='utf-8')
    comparison.write()
    return comparison


def _can_be_tested(teacher: Any) -> bool:
    """Whether what a config has is one teacher, with weights and with the classes of the data."""
    if not isinstance(teacher, Mapping):
        return isinstance(teacher, str)
    return teacher.get('type') not in OWN_TEACHERS and not teacher.get('class_map')


def _joined(new: Comparison, folder: Path) -> Comparison:
    """A comparison with what its folder has of it from before."""
    if not is_comparison(folder):
        return new
    old = read_comparison(folder)
    if old.baseline != new.baseline:
        raise ConfigError(
            f'{folder} is of a comparison with the baseline {old.baseline!r}, not '
            f'{new.baseline!r}; give another --work-dir.'
        )
    seeds = list(dict.fromkeys((*old.seeds, *new.seeds)))
    return replace(new, methods={**old.methods, **new.methods}, seeds=seeds)


def check_same(file: Path, text: str, method: str, keys: Sequence[str] = ()) -> None:
    """See that what a run was begun with is what the plan says now.

    Args:
        file: What it was begun with.
        text: What the plan says.
        method: What messages call it.
        keys: Dotted names of what counts; none: all.

    Raises:
        ConfigError: They differ.
    """
    places = differences(file, text)
    if keys:
        places = [place for place in places if place.startswith(tuple(keys))]
    if places:
        named = ', '.join(places[:MOST_NAMED]) + (', ...' if len(places) > MOST_NAMED else '')
        raise ConfigError(
            f'{method}: {file} is of another plan: {named} differ'
            f'{"s" if len(places) == 1 else ""}. Give another --work-dir, or remove this folder.'
        )


def differences(file: Path, text: str) -> list[str]:
    """The dotted names of what a config file and the text of a config differ in.

    A config's own variables do not count: of them a runner sees only what they were used for.
    """
    if file.read_text(encoding='utf-8') == text:
        return []
    known = runner_keys() | {'sweep'}
    before, now = (
        {key: value for key, value in config.to_dict().items() if key in known}
        for config in (read_config_file(str(file)), Config.fromstring(text, '.py'))
    )
    return list(differing(before, now))


def differing(a: Any, b: Any, place: str = '') -> Iterator[str]:
    """The dotted names of what two configs differ in."""
    pairs: Sequence[tuple[Any, Any, Any]] = ()
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        missing = object()
        keys = dict.fromkeys((*a, *b))
        pairs = [(key, a.get(key, missing), b.get(key, missing)) for key in keys]
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        pairs = [(index, *both) for index, both in enumerate(zip(a, b, strict=True))]
    elif a != b:
        yield place
    for key, one, other in pairs:
        yield from differing(one, other, f'{place}.{key}' if place else str(key))
