"""The folder of a sweep: which trials it has, and how far each of them is.

Beside `sweep.json`, which `mmseg-kd sweep` writes, each trial has a folder with its config and what
it changes, trial007/config.py and trial007/options.json, and its work dir in it, trial007/seed0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mmseg_kd.errors import LogError, nearest
from mmseg_kd.runs.comparison import Run
from mmseg_kd.runs.described import read_described, write_description
from mmseg_kd.runs.log import read_log

FILE, OPTIONS = 'sweep.json', 'options.json'
# What the work dir of a trial has that was ended before its time.
_PRUNED = '.pruned'


@dataclass(frozen=True)
class Trial(Run):
    """A training with some options changed, judged by its last validation.

    Attributes:
        options: Their values, by dotted name.
        number: From 0.
    """

    is_tested = False
    options: Mapping[str, Any] = field(default_factory=dict)
    number: int = 0

    def __str__(self) -> str:
        return self.method

    @property
    def is_pruned(self) -> bool:
        """Whether it was ended before its time, as others did better."""
        return (self.folder / _PRUNED).exists()

    def prune(self) -> None:
        """Say that it is to end before its time."""
        (self.folder / _PRUNED).touch()

    def validations(self) -> dict[int, float]:
        """Its metric by iteration, as far as it is.

        Raises:
            LogError: It validates, but the metric is not among what it measures.
        """
        try:
            val = read_log(self.folder).val
        except LogError:
            return {}
        if val and self.metric not in val:
            raise LogError(
                f'{self}: its validation has no {self.metric!r}; {nearest(self.metric, val)}.'
            )
        curve = val.get(self.metric)
        if curve is None:
            return {}
        return dict(zip(curve.iterations.tolist(), curve.values.tolist(), strict=True))

    def metrics(self) -> dict[str, float] | None:
        """Its metric in the validation at its end; None: it has not come there."""
        value = self.validations().get(self.iterations)
        return None if value is None else {self.metric: value}


@dataclass(frozen=True)
class Sweep:
    """What `sweep.json` says.

    Attributes:
        folder: It lies there.
        plan: The file of the plan.
        names: Of the options that are tried.
        metric: What trials are judged by.
        maximize: Whether more of it is better.
        seed: Of all trainings.
        count: How many trials there are to be.
    """

    folder: Path
    plan: str
    names: Sequence[str]
    metric: str
    maximize: bool
    seed: int
    count: int

    def trial(self, number: int, options: Mapping[str, Any], iterations: int) -> Trial:
        """A trial of the sweep."""
        name = f'trial{number:03}'
        work_dir = self.folder / name / f'seed{self.seed}'
        return Trial(name, self.seed, work_dir, iterations, self.metric, options, number)

    def trials(self) -> list[Trial]:
        """Those that there are, in the order in which they were begun."""
        found = []
        for file in sorted(self.folder.glob(f'trial*/{OPTIONS}')):
            found.append(self.trial(**json.loads(file.read_text(encoding='utf-8'))))
        return sorted(found, key=lambda one: one.number)

    def begin(self, trial: Trial, config: str) -> None:
        """Write what a trial trains."""
        trial.config.parent.mkdir(parents=True, exist_ok=True)
        trial.config.write_text(config, encoding='utf-8')
        what = dict(number=trial.number, options=dict(trial.options), iterations=trial.iterations)
        write_description(trial.config.with_name(OPTIONS), what)

    def write(self) -> None:
        """Write `sweep.json`."""
        values = {name: value for name, value in asdict(self).items() if name != 'folder'}
        write_description(self.folder / FILE, values)


def read_sweep(folder: str | Path) -> Sweep:
    """The sweep in a folder.

    Raises:
        LogError: There is none, or its file is not whole.
    """
    return read_described(Sweep, Path(folder, FILE), 'sweep', 'mmseg-kd sweep')
