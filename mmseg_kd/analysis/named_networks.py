"""Trained networks by what users call them: [TITLE=]WORK_DIR or [TITLE=]CONFIG:CHECKPOINT."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from mmseg_kd.checkpoints import load_weights
from mmseg_kd.config.experiments import run_name
from mmseg_kd.config.load import load_config
from mmseg_kd.config.network_spec import (
    NetworkSpec,
    is_distillation,
    parse_teachers,
    teacher_of,
    trained_network_of,
)
from mmseg_kd.config.term_spec import parse_terms
from mmseg_kd.errors import CheckpointError, ConfigError, Problems
from mmseg_kd.networks.build import build_segmentor, without_initialisation
from mmseg_kd.runs.work_dir import read_work_dir, split_title, title_of

TEACHER = 'teacher'
# What stands beside networks in a figure.
COLUMNS = ('image', 'ground truth')

# CONFIG:CHECKPOINT, where CONFIG may be FILE.py::NAME or mmseg::...
_PAIR = re.compile(r'(?P<config>.+?\.py(?:::[^:/]+)?):(?P<checkpoint>.+)')


@dataclass(frozen=True)
class NamedNetwork:
    """A trained network that was asked for.

    Attributes:
        title: What figures and messages call it.
        cfg: Its config.
        spec: What the config says of it.
        checkpoint: Its weights; None: a teacher that may come with them.
    """

    title: str
    cfg: Config
    spec: NetworkSpec
    checkpoint: str | None


def read_networks(
    texts: Sequence[str], options: Mapping[str, Any] | None = None
) -> list[NamedNetwork]:
    """Networks by their names.

    Without a TITLE a distillation is called by its losses and any other network by its folder or
    config; several that would have one title, by those too.

    Args:
        texts: [TITLE=]WORK_DIR, the folder of a run, whose best checkpoint is taken, or the newest
            where it kept no best one; or [TITLE=]CONFIG:CHECKPOINT.
        options: Overrides of the first one's config.

    Raises:
        ConfigError, CheckpointError: What is wrong; `ManyErrors` where that is more than one.
    """
    problems = Problems()
    found: list[NamedNetwork] = []
    names: list[str] = []
    for index, text in enumerate(texts):
        with problems:
            title, rest = split_title(text)
            config, checkpoint, name = _locate(rest)
            cfg = load_config(config, options if index == 0 else None)
            short = title or title_of(cfg.model) or name
            found.append(NamedNetwork(short, cfg, trained_network_of(cfg), checkpoint))
            names.append(title or name)
    problems.raise_if_any()
    titles = [one.title for one in found]
    for index, title in enumerate(titles):
        if titles.count(title) > 1:
            found[index] = replace(found[index], title=names[index])
    _check_titles([one.title for one in found])
    return found


def _locate(text: str) -> tuple[str, str, str]:
    """Config and checkpoint, and a name."""
    pair = _PAIR.fullmatch(text)
    if pair:
        return pair['config'], pair['checkpoint'], run_name(pair['config'])
    if Path(text).suffix == '.py':
        raise ConfigError(f'{text}: expected its checkpoint too, as {text}:CHECKPOINT.')
    if Path(text).is_file():
        raise ConfigError(
            f'{text}: expected its config too, as CONFIG:{text}, or the folder of a run.'
        )
    run = read_work_dir(text)
    return str(run.config), str(run.checkpoint), run.folder.resolve().name


def _check_titles(titles: Sequence[str]) -> None:
    for title in COLUMNS:
        if title in titles:
            raise ConfigError(f'{title!r} is the title of another column; choose another TITLE=.')
    for title in titles:
        if titles.count(title) > 1:
            raise ConfigError(f'several networks are called {title!r}; write TITLE= before them.')


def read_teacher(networks: Sequence[NamedNetwork], name: str | None) -> NamedNetwork:
    """The teacher of the first of the networks whose config has one.

    Args:
        networks: As `read_networks` gives them.
        name: The one of several teachers; None: the only one.

    Raises:
        ConfigError: There is none, or none of this name, or a name is needed.
    """
    if name is not None and (Path(name).exists() or _PAIR.fullmatch(name)):
        raise ConfigError(f'--teacher: {name!r} is no name; networks go before --teacher.')
    cfgs = [one.cfg for one in networks]
    cfg = next((c for c in cfgs if is_distillation(c) and c.model.get('teacher')), cfgs[0])
    return teacher_named(cfg, name)


def teacher_named(cfg: Config, name: str | None) -> NamedNetwork:
    """The teacher of a config by its name; None: the only one.

    Raises:
        ConfigError: As in `read_teacher`.
    """
    spec = teacher_of(cfg, name)
    title = TEACHER if name is None else f'{TEACHER} {name}'
    return NamedNetwork(title, cfg, spec, spec.checkpoint)


def term_layers(networks: Sequence[NamedNetwork], teacher: str | None) -> list[tuple[str, str]]:
    """Pairs of layers, the student's and the teacher's, that the first config with terms names.

    Args:
        networks: As `read_networks` gives them.
        teacher: Its name; None: the terms' only one.

    Raises:
        ConfigError: No config has terms with this teacher.
    """
    for one in networks:
        if not is_distillation(one.cfg):
            continue
        names, _ = parse_teachers(one.cfg.model.get('teacher'), Problems())
        terms = parse_terms(one.cfg.model.get('distillation'), names, Problems()).layers
        pairs = [
            pair
            for _, layers in terms
            for name, theirs in layers.teachers.items()
            if teacher in (None, name)
            for pair in zip(layers.student, theirs, strict=True)
        ]
        if pairs:
            return pairs
    raise ConfigError(
        'none of the configs has a distillation with such terms: say with --layers which to show '
        '(mmseg-kd layers CONFIG prints them all).'
    )


def load_networks(networks: Sequence[NamedNetwork], device: torch.device) -> dict[str, Any]:
    """The networks with their weights, in eval mode, by title.

    Args:
        networks: As `read_networks` and `read_teacher` give them.
        device: Where they go.

    Raises:
        ConfigError: One cannot be built, two have the same title, or they tell different numbers
            of classes apart.
        CheckpointError: One does not fit, or a teacher has no weights; `ManyErrors` where more is
            wrong.
    """
    _check_titles([one.title for one in networks])
    problems = Problems()
    built: dict[str, Any] = {}
    for one in networks:
        with problems:
            has_checkpoint = one.checkpoint is not None
            model = without_initialisation(one.spec.model) if has_checkpoint else one.spec.model
            built[one.title] = build_segmentor(model, one.title)
    classes = {title: int(network.num_classes) for title, network in built.items()}
    if len(set(classes.values())) > 1:
        told = ', '.join(f'{title} {count}' for title, count in classes.items())
        problems.add(
            ConfigError(
                f'the networks tell different numbers of classes apart: {told}. '
                'Only those of one data set can be compared.'
            )
        )
    for one in networks:
        if one.title in built:
            with problems:
                _fill(built[one.title], one)
    problems.raise_if_any()
    return {title: network.to(device).eval() for title, network in built.items()}


def _fill(network: Any, named: NamedNetwork) -> None:
    """Load a network's weights, unless it came with them."""
    if named.checkpoint is not None:
        try:
            load_weights(network, named.checkpoint)
        except CheckpointError as error:
            raise CheckpointError(f'{named.title}: {error}') from error
    elif not getattr(network, 'is_pretrained', False):
        raise CheckpointError(
            '--teacher: the config has no checkpoint=... for it; set it with --cfg-options '
            'model.teacher.checkpoint=FILE, or give the teacher as one of the networks.'
        )
