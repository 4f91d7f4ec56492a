"""Tables of the config reference: what the code says of everything that a config can name.

Signatures, defaults and docstrings of all that is registered, and of the keys of networks and
terms. An argument without a description is an error, so that the page has no gap.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import mmengine.registry
import mmseg.registry
from mmengine.registry import Registry

import mmseg_kd.register
from mmseg_kd.cli.list_experiments import describe_terms
from mmseg_kd.config.fields import (
    EMATeacherFields,
    NetworkFields,
    TeacherFields,
    TermFields,
    WeightFields,
)
from mmseg_kd.config.recipes import RECIPES
from mmseg_kd.config.teacher_options import TeacherOptions
from mmseg_kd.config.term_spec import CHANNELS
from mmseg_kd.registry import CONNECTORS, KD_LOSSES, SCHEDULES

PACKAGE = Path(mmseg_kd.__file__).parent

# Titles of the parts, in the order of the page, and how a config names what is in them.
FIELDS = {
    'Networks': NetworkFields,
    'Teachers': TeacherFields,
    'How a teacher is run': TeacherOptions,
    'The average of the student': EMATeacherFields,
    'Terms': TermFields,
    'Weights that set themselves': WeightFields,
}
REGISTRIES = {
    'kd_loss': ('Losses', "`loss=dict(type='...')` of a term. Compared on [Losses](losses.md)."),
    'schedule': ('Schedules', "`schedule=[dict(type='...'), ...]` of a term."),
    'connector': ('Connectors', "`connector=dict(type='...')` of a term."),
    'model': ('Models', "`model=dict(type='...')`, and losses of a decode head."),
    'hook': ('Hooks', "`custom_hooks=[dict(type='...'), ...]`. Many are there without it."),
    'metric': ('Metrics', "`val_evaluator=dict(type='...')` and `test_evaluator`."),
    'dataset': ('Data sets', "`dataset=dict(type='...')` of a data loader."),
}


class MissingDescription(Exception):
    """An argument that a config can give, without a word on what it is."""


def tables() -> str:
    """All of them, in Markdown.

    Raises:
        MissingDescription: Of all arguments without a description, at once.
    """
    missing: list[str] = []
    parts: list[str] = []
    for title, kind in FIELDS.items():
        rows = [
            (one.name, str(one.type), one.default, _described(kind, one.name, missing))
            for one in fields(kind)
        ]
        parts += [f'## {title}', prose(kind), _table(rows, 'key')]
    parts += ['## Recipes', "`distillation=[dict(recipe='...')]`.", _recipes()]
    for registry, members in registered().items():
        title, intro = REGISTRIES.get(registry, (registry.capitalize(), ''))
        parts += [f'## {title}', intro]
        for name, member in members.items():
            parts += [f'### {name}', prose(member), *_arguments(member, missing)]
    if missing:
        raise MissingDescription('no description of: ' + ', '.join(missing))
    return '\n\n'.join(part for part in parts if part) + '\n'


def _recipes() -> str:
    """The table of the recipes."""
    rows = [
        f'| `{name}` | {"<br>".join(f"`{_told(term)}`" for term in one.terms)} | {one.source} |'
        for name, one in sorted(RECIPES.items())
    ]
    return '\n'.join(['| recipe | terms | from |', '| --- | --- | --- |', *rows])


def _told(term: Mapping[str, Any]) -> str:
    """A term of a recipe in a line."""
    layer, text = term['student_layer'], describe_terms([term])
    return f'{layer}: {text}'


def registered() -> dict[str, dict[str, type]]:
    """Classes of mmseg_kd, by the registry's name and by their own, in the order of the page."""
    for path in sorted(PACKAGE.rglob('*.py')):
        if '.register_module(' in path.read_text(encoding='utf-8'):
            inner = path.relative_to(PACKAGE).with_suffix('').parts
            importlib.import_module('.'.join(['mmseg_kd', *inner]))
    registries = [KD_LOSSES, SCHEDULES, CONNECTORS]
    for host in (mmengine.registry, mmseg.registry):
        registries += [one for one in vars(host).values() if isinstance(one, Registry)]
    found: dict[str, dict[str, type]] = {}
    for registry in registries:
        for name, member in sorted(registry.module_dict.items()):
            if member.__module__.startswith('mmseg_kd.'):
                found.setdefault(registry.name, {})[name] = member
    order = [*REGISTRIES, *found]
    return dict(sorted(found.items(), key=lambda one: order.index(one[0])))


def _arguments(member: type, missing: list[str]) -> Iterator[str]:
    """The table of a class's arguments, or a line where it has none."""
    rows = []
    for p in inspect.signature(member).parameters.values():
        star = re.sub(r'\w.*', '', str(p))
        # What the layers give, and what a host's class takes and drops, no config writes.
        if p.name in CHANNELS or (star and '__init__' not in vars(member)):
            continue
        kind = '' if p.annotation is p.empty else _choices(member, str(p.annotation))
        default = MISSING if p.default is p.empty else p.default
        rows.append((star + p.name, kind, default, _described(member, p.name, missing)))
    yield _table(rows, 'argument') if rows else 'No arguments.'


def _choices(member: Any, annotation: str) -> str:
    """An annotation as it is written, with its values where it names a set of them."""
    alias = getattr(sys.modules[member.__init__.__module__], annotation, None)
    return f'Literal{list(get_args(alias))}' if get_origin(alias) is Literal else annotation


def _described(kind: type, name: str, missing: list[str]) -> str:
    """What the docstring of a class, or else of a class that it comes from, says of an argument."""
    for one in kind.__mro__:
        text = descriptions(one.__doc__ or '').get(name, '')
        # "As in `Base`." is said where the base is read on its own; here the words are wanted.
        referred = re.fullmatch(r'As in `(\w+)`\.?', text)
        if text and not (referred and referred[1] in {c.__name__ for c in kind.__mro__}):
            return text
    missing.append(f'{kind.__name__}.{name}')
    return ''


def descriptions(doc: str) -> Mapping[str, str]:
    """The entries of a docstring's section Args or Attributes, by name."""
    found: dict[str, str] = {}
    names: list[str] = []
    inside = False
    for line in inspect.cleandoc(doc).splitlines():
        if not line.startswith(' ') and line:
            inside = line in ('Args:', 'Attributes:')
        elif inside and (head := re.match(r' {4}(\S[^:]*?)(?: \(.*?\))?:\s*(.*)', line)):
            names = [name.strip(' *`') for name in head[1].split(',')]
            found |= dict.fromkeys(names, head[2])
        elif inside and line.strip():
            found |= {name: f'{found[name]} {line.strip()}' for name in names}
    return found


def prose(member: type) -> str:
    """A docstring without its sections of arguments and errors, in Markdown."""
    text = inspect.cleandoc(member.__doc__ or '')
    text = re.sub(r'^(Args|Raises|Attributes|Shape):\n(?:(?: .*)?(?:\n|$))+', '', text, flags=re.M)
    text = re.sub(r'^\.\. math::(.*(?:\n .*)*)', r'$$\n\1\n$$', text, flags=re.M)
    text = re.sub(r'^(Taps:|Choose it|Reference:) ', r'**\1** ', text, flags=re.M)
    return re.sub(r':\w+:`([^`]+)`', r'`\1`', text).replace('``', '`').strip()


def _table(rows: list[tuple[str, str, Any, str]], first: str) -> str:
    """Rows of name, type, default and description; two columns, for narrow screens."""
    lines = [f'| {first} | type = default |', '| --- | --- |']
    for name, kind, default, text in rows:
        if name.startswith('*'):
            head = ''
        elif default is MISSING:
            head = f'`{kind}`, needed<br>' if kind else 'needed<br>'
        else:
            head = f'`{f"{kind} = " if kind else ""}{default!r}`<br>'
        lines.append(f'| `{name}` | {head}{text} |')
    return '\n'.join(lines)
