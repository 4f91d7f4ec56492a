"""What a run has logged: its curves over all of its starts.

A start of a run writes a folder of its own, WORK_DIR/20261122_141117/vis_data/, with a line for
each entry of the log in scalars.json and the config as it was read in config.py.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import nan
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmseg_kd.errors import LogError
from mmseg_kd.host.log_names import TRAIN_PREFIX, VAL_PREFIX

SCALARS, CONFIG = 'scalars.json', 'config.py'

# What may differ between runs of one experiment: the seed, where things go and what goes on.
_OWN_TO_A_RUN = {'randomness', 'work_dir', 'resume', 'load_from', 'launcher', 'experiment_name'}


@dataclass(frozen=True)
class Curve:
    """A value over the run.

    Attributes:
        iterations: Rising.
        values: One for each; NaN and infinities are kept as they were logged.
    """

    iterations: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]

    @property
    def last(self) -> float:
        """The value at the end."""
        return float(self.values[-1])

    @property
    def best(self) -> float:
        """The largest value; NaN where there is nothing else."""
        finite = self.values[np.isfinite(self.values)]
        return float(finite.max()) if finite.size else nan


@dataclass(frozen=True)
class Start:
    """One start of a run.

    Attributes:
        file: Its scalars.json.
        first: The first iteration that it logged; None: it ended before.
    """

    file: Path
    first: int | None


@dataclass(frozen=True)
class RunLog:
    """What a run has logged.

    Where a start went over iterations of one before, as a resumed run does from its checkpoint on,
    what the later one logged counts.

    Attributes:
        folder: The work dir.
        starts: The oldest first.
        train: Curves of training by name, such as 'loss', 'decode.loss_ce', 'kd.cgd', 'lr' and
            'time'.
        val: Curves of validation by name, such as 'mIoU' and 'mAcc'.
        unread: Lines that could not be read, such as the last one of a run that was killed.
    """

    folder: Path
    starts: Sequence[Start]
    train: Mapping[str, Curve]
    val: Mapping[str, Curve]
    unread: int = 0

    def curve(self, name: str) -> Curve | None:
        """A curve of validation, or else of training; None where there is none of the name."""
        return self.val.get(name, self.train.get(name))


# Values by name at an iteration, of training or of validation.
_Entry = tuple[int, bool, dict[str, float]]


@dataclass
class _Entries:
    """The entries of a run while its starts are read."""

    kept: list[_Entry] = field(default_factory=list)
    unread: int = 0

    def add(self, found: Sequence[_Entry]) -> None:
        if found:
            first, is_training, _ = found[0]
            # Where a start begins with the validation that was due, the training before it counts.
            self.kept = [
                entry
                for entry in self.kept
                if entry[0] < first or (entry[0] == first and entry[1] and not is_training)
            ]
            self.kept.extend(found)

    def curves(self, of_training: bool) -> dict[str, Curve]:
        points: dict[str, dict[int, float]] = {}
        for iteration, is_training, values in self.kept:
            if is_training == of_training:
                for name, value in values.items():
                    points.setdefault(name, {})[iteration] = value
        return {
            name: Curve(np.array(sorted(by)), np.array([by[i] for i in sorted(by)], float))
            for name, by in points.items()
        }


def read_log(path: str | Path) -> RunLog:
    """The log of a run.

    Args:
        path: A work dir, the folder of one of its starts, or a scalars.json.

    Raises:
        LogError: There is no log, or nothing in it.
    """
    path = Path(path)
    files = scalar_files(path)
    if not files:
        raise LogError(
            f'{path}: expected a work dir with */vis_data/{SCALARS}, or such a file; found '
            f'{"neither" if path.exists() else "nothing of this name"}.'
        )
    entries = _Entries()
    starts = []
    for file in files:
        found, unread = _read(file)
        starts.append(Start(file, found[0][0] if found else None))
        entries.add(found)
        entries.unread += unread
    if not entries.kept:
        raise LogError(f'{path}: nothing was logged yet in {files[-1]}.')
    folder = path if path.is_dir() else path.parent
    return RunLog(folder, starts, entries.curves(True), entries.curves(False), entries.unread)


def scalar_files(path: Path) -> list[Path]:
    """The logs of a run's starts, the oldest first; `path` as in `read_log`."""
    if path.is_file():
        return [path]
    for pattern in (f'*/vis_data/{SCALARS}', f'vis_data/{SCALARS}', SCALARS):
        # The folders' names are the times of the starts.
        if found := sorted(path.glob(pattern)):
            return found
    return []


def _read(file: Path) -> tuple[list[_Entry], int]:
    """The entries of a file in their order, and the number of lines that are none."""
    entries: list[_Entry] = []
    unread = 0
    # A disk that ran full leaves anything behind, bytes that are no text too.
    try:
        text = file.read_text(encoding='utf-8', errors='replace')
    except OSError as error:
        raise LogError(f'{file} cannot be read: {error.strerror}.') from error
    last = 0
    for line in text.splitlines():
        try:
            values = json.loads(line)
            # Only training has `iter`. Where a config logs metrics by epoch, their step is that.
            is_training = 'iter' in values
            last = max(int(values['iter' if is_training else 'step']), last)
        except (ValueError, TypeError, KeyError, OverflowError):
            unread += bool(line.strip())
            continue
        entries.append((last, is_training, dict(_numbers(values, is_training))))
    return entries, unread


def _numbers(values: Mapping[str, object], is_training: bool) -> Iterator[tuple[str, float]]:
    # Where a config logs with hierarchy, the names begin with what they are of.
    prefix = TRAIN_PREFIX if is_training else VAL_PREFIX
    for name, value in values.items():
        counts = name in ('iter', 'step', 'epoch')
        if isinstance(value, int | float) and not isinstance(value, bool) and not counts:
            yield name.removeprefix(prefix), float(value)


def experiment_of(log: RunLog) -> frozenset[tuple[str, str]] | None:
    """What runs of one config have in common, whatever their seeds; None where it is not kept.

    The config that the last start wrote down is compared, entry by entry; its code is not run.
    """
    entries = _config_of(log)
    if not entries:
        return None
    return frozenset((k, ast.unparse(v)) for k, v in entries.items() if k not in _OWN_TO_A_RUN)


def seed_of(log: RunLog) -> int | None:
    """The seed that a run was given; None where it was not, or where its config is not kept."""
    randomness = _config_of(log).get('randomness')
    given = getattr(randomness, 'keywords', ())
    values = [word.value for word in given if word.arg == 'seed']
    seeds = [one.value for one in values if isinstance(one, ast.Constant)]
    return seeds[0] if seeds and isinstance(seeds[0], int) else None


def _config_of(log: RunLog) -> dict[str, ast.expr]:
    """The entries of the config that the last start wrote down, by name, as code."""
    file = log.starts[-1].file.with_name(CONFIG)
    try:
        statements = ast.parse(file.read_text(encoding='utf-8')).body
    except (OSError, ValueError, SyntaxError):
        return {}
    return {
        one.targets[0].id: one.value
        for one in statements
        if isinstance(one, ast.Assign) and isinstance(one.targets[0], ast.Name)
    }
