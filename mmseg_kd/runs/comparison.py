"""The folder of a comparison: which runs it has, and how far each of them is.

Beside `comparison.json`, which `mmseg-kd compare` writes, each method has a folder with its config,
METHOD/config.py, and each run a work dir of its own in it, METHOD/seedN, with the
output of its last start (`run.log`) and its test (`test`). The teacher's folder has its `test`, and
its `validation` where that is of other images.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from filelock import FileLock, Timeout

from mmseg_kd.errors import ConfigError, LogError
from mmseg_kd.runs.described import read_described, write_description
from mmseg_kd.runs.log import read_log
from mmseg_kd.runs.printed import printed_classes

METRIC = 'mIoU'
FILE = 'comparison.json'
TEACHER = 'teacher'
LOG = 'run.log'
# What a run's folder has while its process is there, and after that has ended with an error.
RUNNING, FAILED = '.running', '.failed'
_LOCK = '.lock'


@dataclass(frozen=True)
class Run:
    """A method trained with a seed, or the teacher.

    Attributes:
        method: Its name, or 'teacher'.
        seed: Of all random numbers; None of the teacher, which is tested alone.
        folder: Its work dir.
        iterations: How long it is trained.
        metric: What it is judged by.
        is_tested: Whether a test follows the training.
    """

    method: str
    seed: int | None
    folder: Path
    iterations: int = 0
    metric: str = METRIC
    is_tested: ClassVar[bool] = True

    def __str__(self) -> str:
        return self.method if self.seed is None else f'{self.method}, seed {self.seed}'

    @property
    def is_pruned(self) -> bool:
        """Whether it was ended before its time, for good."""
        return False

    @property
    def config(self) -> Path:
        """What is trained; a runner writes what it makes of it into its own folder."""
        return (self.folder if self.seed is None else self.folder.parent) / 'config.py'

    @property
    def checkpoint(self) -> Path:
        """What its training ends with, and what is tested."""
        return self.folder / f'iter_{self.iterations}.pth'

    def metrics(self) -> dict[str, float] | None:
        """What its test measured, in percent; None: it has not come to an end."""
        return self._measured('test')

    def validation(self) -> dict[str, float] | None:
        """What the teacher, whose validations are in no log, has there; None where it has none."""
        return self._measured('validation')

    def _measured(self, part: str) -> dict[str, float] | None:
        for file in sorted((self.folder / part).glob('*/*.json'), reverse=True):
            try:
                found: dict[str, float] = json.loads(file.read_text(encoding='utf-8'))
            except ValueError:  # torn, or being written
                continue
            if METRIC in found:
                return found
        return None

    def classes(self) -> dict[str, float]:
        """IoU by class in percent, of its test; nothing where that printed none."""
        for file in sorted((self.folder / 'test').glob('*/*.log'), reverse=True):
            text = file.read_text(encoding='utf-8', errors='replace')
            if (found := printed_classes(text, 'test')) is not None:
                return found[1]
        return {}


@dataclass(frozen=True)
class Comparison:
    """What `comparison.json` says.

    Attributes:
        folder: It lies there.
        plan: The file of the plan.
        baseline: What the other methods are measured against.
        methods: How many iterations each is trained, by name.
        seeds: Each method is trained with each.
        has_teacher: Whether there is one to be tested.
        seconds: What each training may take, where lengths follow from the time of a step.
    """

    folder: Path
    plan: str
    baseline: str
    methods: Mapping[str, int]
    seeds: Sequence[int]
    has_teacher: bool
    seconds: float | None = None

    def runs(self) -> list[Run]:
        """The teacher's test, then of each seed all methods, so that seeds end one by one."""
        teacher = [Run(TEACHER, None, self.folder / TEACHER)] if self.has_teacher else []
        return teacher + [
            Run(method, seed, self.folder / method / f'seed{seed}', iterations)
            for seed in self.seeds
            for method, iterations in self.methods.items()
        ]

    def write(self) -> None:
        """Write `comparison.json`."""
        values = {name: value for name, value in asdict(self).items() if name != 'folder'}
        write_description(self.folder / FILE, values)


def is_comparison(folder: str | Path) -> bool:
    """Whether there is a comparison in a folder."""
    return Path(folder, FILE).is_file()


def read_comparison(folder: str | Path) -> Comparison:
    """The comparison in a folder.

    Raises:
        LogError: There is none, or its file is not whole.
    """
    return read_described(Comparison, Path(folder, FILE), 'comparison', 'mmseg-kd compare')


@contextmanager
def at_work(folder: Path) -> Iterator[None]:
    """Inside, this process alone works at a comparison.

    Raises:
        ConfigError: Another one does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / _LOCK, timeout=1):  # a look at it takes less
            yield
    except Timeout:
        raise ConfigError(
            f'{folder}: another process is at work there; wait for its end, or watch it with '
            '--status.'
        ) from None


def is_at_work(folder: Path) -> bool:
    """Whether a process works at a comparison."""
    try:
        # Read alone: who looks at another's folder may not write there, as a `FileLock` does.
        with (folder / _LOCK).open('rb') as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # there is none, or it is not to be seen
        return False
    return False


@dataclass(frozen=True)
class State:
    """How far a run is.

    Attributes:
        name: 'waiting' for its turn, 'running', 'stopped', 'failed', 'pruned' or 'done'.
        iteration: The last that was logged.
        value: Of its metric in the test or else in the last validation; None: there is none yet.
    """

    name: str
    iteration: int = 0
    value: float | None = None


def state_of(run: Run, is_at_work: bool) -> State:
    """How far a run is.

    Args:
        run: Of a comparison.
        is_at_work: Whether a process works at that.
    """
    iteration, value = 0, None
    try:
        log = read_log(run.folder)
    except LogError:
        pass
    else:
        ends = [curve.iterations[-1] for curve in (*log.train.values(), *log.val.values())]
        iteration = int(max(ends, default=0))
        value = log.val[run.metric].last if run.metric in log.val else None
    if (metrics := run.metrics()) is not None:
        return State('done', run.iterations, metrics[run.metric])
    if run.is_pruned:
        return State('pruned', iteration, value)
    if (run.folder / FAILED).exists():
        return State('failed', iteration, value)
    if (run.folder / RUNNING).exists() and is_at_work:
        return State('running', iteration, value)
    return State('stopped' if iteration else 'waiting', iteration, value)
