"""The weights of the terms over a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from mmengine.config import Config

from mmseg_kd.config.network_spec import is_distillation, parse_teachers
from mmseg_kd.config.term_spec import TermSpec, parse_terms
from mmseg_kd.errors import ConfigError, Problems
from mmseg_kd.schedules import RandomTurn


def terms_of(cfg: Config) -> Sequence[TermSpec]:
    """The terms of a distillation, without their networks.

    Raises:
        ConfigError: The config is no distillation, has no terms, or one is wrong.
    """
    if not (is_distillation(cfg) and cfg.model.get('distillation')):
        raise ConfigError('expected a distillation with terms, got a config without any.')
    problems = Problems()
    names, _ = parse_teachers(cfg.model.get('teacher'), problems)
    specs = parse_terms(cfg.model.distillation, names, problems).specs
    problems.raise_if_any()
    return specs


def mean_weights(term: TermSpec, iterations: Sequence[int]) -> list[float]:
    """A term's weight at each of `iterations`; of terms that take turns the mean over the draws.

    Of a weight that sets itself: its share.
    """
    turns = [s for s in term.schedules if isinstance(s, RandomTurn)]
    drawn = float(np.prod([1 / turn.count for turn in turns]))
    rest = [s for s in term.schedules if not isinstance(s, RandomTurn)]
    return [
        term.weight * drawn * float(np.prod([schedule(i) for schedule in rest])) for i in iterations
    ]


def label_of(term: TermSpec) -> str:
    """A term's name, with what its weight is of where that sets itself."""
    return f"{term.name} (share of the task's gradient)" if term.is_auto else term.name


def draw_weights(weights: Mapping[str, Sequence[float]], title: str, path: Path) -> None:
    """Write a picture of the terms' weights from iteration 0 on, by the terms' names.

    Its format is that of the ending of `path`.
    """
    figure = Figure(figsize=(8, 4), layout='constrained')
    axes = figure.add_subplot()
    # Curves that lie upon each other are told apart by their dashes.
    styles = ('-', '--', '-.', ':')
    for index, (name, values) in enumerate(weights.items()):
        axes.plot(values, styles[index % len(styles)], label=name, linewidth=2)
    axes.set(xlabel='iteration', ylabel='weight', title=title)
    axes.set_xlim(0, max(map(len, weights.values())) - 1)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter(lambda value, _: f'{value:,.0f}')
    axes.grid(alpha=0.3)
    axes.legend(title='term')
    figure.savefig(path, dpi=150)
