"""From a plan to the folder of its runs, or on with the one that is there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmseg_kd.comparison.plan import Plan
from mmseg_kd.config.fields import OWN_TEACHERS
from mmseg_kd.config.file import read_config_file
from mmseg_kd.config.network_spec import is_distillation
from mmseg_kd.errors import ConfigError, Problems
from mmseg_kd.runs.comparison import Comparison, is_comparison, read_comparison

# How many places a message names.
MOST_NAMED = 6


def begin(plan: Plan, folder: Path) -> Comparison:
    """Write what each run trains, and what the folder is; what is there already is kept.

    Methods and seeds that were compared before stay in the comparison.

    Raises:
        ConfigError: What is there is of another plan; `ManyErrors` where that is so of more than
            one method. Nothing is written then.
    """
    taught = [cfg for cfg in plan.methods.values() if _has_teacher(cfg)]
    methods = {name: int(cfg.train_cfg.max_iters) for name, cfg in plan.methods.items()}
    new = Comparison(
        folder, plan.file, plan.baseline, methods, plan.seeds, bool(taught), plan.seconds
    )
    comparison = _joined(new, folder)
    texts = {name: str(cfg.pretty_text) for name, cfg in plan.methods.items()}
    problems = Problems()
    configs = {run.config: run.method for run in new.runs()}
    for file, method in configs.items():
        if method in texts and file.exists():
            with problems:
                check_same(file, texts[method], method)
    problems.raise_if_any()
    for file, method in configs.items():
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(texts.get(method) or str(taught[0].pretty_text), encoding='utf-8')
    comparison.write()
    return comparison


def _has_teacher(cfg: Config) -> bool:
    """Whether a config names one teacher, which can be tested."""
    teacher = cfg.model.get('teacher') if is_distillation(cfg) else None
    own = isinstance(teacher, Mapping) and teacher.get('type') in OWN_TEACHERS
    return isinstance(teacher, (Mapping, str)) and not own


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
    return Comparison(
        folder,
        new.plan,
        new.baseline,
        {**old.methods, **new.methods},
        list(dict.fromkeys((*old.seeds, *new.seeds))),
        old.has_teacher or new.has_teacher,
        new.seconds,
    )


def check_same(file: Path, text: str, method: str) -> None:
    """See that what a run was begun with is what the plan says now."""
    if file.read_text(encoding='utf-8') == text:
        return
    before, now = read_config_file(str(file)), Config.fromstring(text, '.py')
    places = list(differing(before.to_dict(), now.to_dict()))
    if places:
        named = ', '.join(places[:MOST_NAMED]) + (', ...' if len(places) > MOST_NAMED else '')
        raise ConfigError(
            f'{method}: {file} is of another plan: {named} differ'
            f'{"s" if len(places) == 1 else ""}. Give another --work-dir, or remove this folder.'
        )


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
