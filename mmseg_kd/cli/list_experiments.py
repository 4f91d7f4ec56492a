"""List distillation experiments: teacher, student, terms and published mIoU."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmseg_kd.cli.common import main_of
from mmseg_kd.config.fields import OWN_TEACHERS, TermFields, weight_text
from mmseg_kd.config.recipes import expanded
from mmseg_kd.errors import ConfigError

if TYPE_CHECKING:
    from mmseg_kd.config.experiments import Experiment

SHIPPED = 'mmseg_kd::distillation_configs'


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='mmseg-kd experiments',
        description=__doc__,
        epilog="example: mmseg-kd experiments --filter '*swin*cgd*'",
    )
    parser.add_argument(
        'paths',
        nargs='*',
        default=[SHIPPED],
        help=f'config files, or folders of them; default: those that are shipped, {SHIPPED}',
    )
    parser.add_argument('--filter', default='*', metavar='GLOB', help='only names that match')
    return parser


def describe_network(cfg: Any) -> str:
    """A network in a word or two: the start of its config's name, or its backbone and head."""
    if isinstance(cfg, (list, tuple)):
        return ' + '.join(map(describe_network, cfg))
    if isinstance(cfg, str):  # the work dir of a run
        return Path(cfg).name
    if not isinstance(cfg, Mapping):
        return '-'
    if 'run' in cfg:
        return Path(cfg['run']).name
    if cfg.get('type') in OWN_TEACHERS:
        return str(cfg['type'])
    if 'config' in cfg:
        # Names go on with GPUs and batch (_8xb2-160k_...), or with data and size (_camvid-240x320).
        return re.split(r'_\d+xb\d+|_\w+-\d+x\d+', Path(cfg['config']).stem)[0]
    parts = (cfg.get(key) for key in ('backbone', 'decode_head'))
    return '_'.join(str(part['type']) for part in parts if isinstance(part, Mapping))


def describe_terms(terms: Sequence[Mapping[str, Any]]) -> str:
    """The terms of a distillation in a line."""
    return ' + '.join(map(_describe_term, terms)) or '-'


def _describe_term(term: Mapping[str, Any]) -> str:
    loss = term['loss']
    arguments = ', '.join(f'{k}={v}' for k, v in loss.items() if k != 'type')
    weight = weight_text(term.get('weight', TermFields.weight))
    text = f'{weight} * {loss["type"]}({arguments})'
    schedule = term.get('schedule') or []
    schedule = [schedule] if isinstance(schedule, Mapping) else schedule
    if schedule:
        text += f' with {" and ".join(one["type"] for one in schedule)}'
    if term.get('reduction'):
        text += f', {term["reduction"]} of {len(term["teacher"])} teachers'
    return text


def row_of(experiment: Experiment) -> tuple[str, tuple[str, ...]]:
    """The heading that an experiment stands under, and its row, which begins with a name."""
    file, key = experiment.file, experiment.key
    path = Path(file)
    heading, name = (f'{path.parent}/', path.name) if key is None else (f'{file}::', key)
    model = experiment.config.model
    return heading, (
        name,
        describe_network(model.get('teacher')),
        describe_network(model.student),
        describe_terms(expanded(model.get('distillation') or ())),
        '' if experiment.published is None else f'{experiment.published:.2f}',
    )


def print_table(heading: str, rows: Sequence[tuple[str, ...]]) -> None:
    """Print rows of name, teacher, student, terms and published mIoU under a heading."""
    head = ('', 'teacher', 'student', 'terms', 'published')
    columns = 5 if any(row[4] for row in rows) else 4
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(columns)]
    print(heading)
    for row in (head, *rows):
        cells = [f'{cell:<{width}}' for cell, width in zip(row, widths, strict=False)]
        print(f'  {"  ".join(cells)}'.rstrip())
    print()


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from mmseg_kd.config.experiments import experiments_of, find_configs
    from mmseg_kd.host.quiet import as_config_error

    tables: dict[str, list[tuple[str, ...]]] = {}
    for file in find_configs(args.paths):
        with as_config_error(file):
            for experiment in experiments_of(file):
                kind = experiment.config.get('model', {}).get('type')
                if kind == 'DistillationWrapper' and fnmatch(experiment.name, args.filter):
                    heading, row = row_of(experiment)
                    tables.setdefault(heading, []).append(row)
    if not tables:
        raise ConfigError(f'no experiment in {", ".join(args.paths)} matches {args.filter!r}.')
    for heading, rows in tables.items():
        print_table(heading, rows)
    print(f'{sum(map(len, tables.values()))} experiments; published: mIoU in percent.')
    heading, rows = next(iter(tables.items()))
    print(f'The heading and the name make one word: mmseg-kd train {heading}{rows[0][0]}')
    return 0


main = main_of(_parser, run)
