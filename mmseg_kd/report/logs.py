"""What a work dir's logs say: values over the iterations, results by class, the environment."""

from __future__ import annotations

import math
import re
import statistics
from dataclasses import dataclass, field
from pathlib import Path

from mmseg_kd.errors import LogError
from mmseg_kd.runs.log import Curve, read_log, scalar_files
from mmseg_kd.runs.printed import printed_classes

# Metrics of a validation that are no measure of quality.
_TIMES = {'time', 'data_time'}

Points = list[tuple[float, float]]


@dataclass
class Logged:
    """What was logged in one work dir.

    Attributes:
        starts: Folders of the starts of the training, the oldest first.
        train: What was logged in training, by name: (iteration, value); what is not finite is
            left out.
        validations: Metrics of each validation, by iteration.
        classes: IoU in percent by class, of the last validation that printed them.
        classes_at: The iteration of that validation.
        environment: What the newest log says of the machine and the versions, by name.
        unread: How many lines could not be read.
    """

    starts: list[Path] = field(default_factory=list)
    train: dict[str, Points] = field(default_factory=dict)
    validations: dict[int, dict[str, float]] = field(default_factory=dict)
    classes: dict[str, float] = field(default_factory=dict)
    classes_at: int | None = None
    environment: dict[str, str] = field(default_factory=dict)
    unread: int = 0

    @property
    def last_iteration(self) -> int:
        """The last iteration that was logged; 0 where none was."""
        steps = [int(points[-1][0]) for points in self.train.values() if points]
        return max([*steps, *self.validations, 0])

    def median(self, name: str) -> float | None:
        """The median of what was logged under a name; None where nothing was."""
        values = [value for _, value in self.train.get(name, [])]
        return statistics.median(values) if values else None


def read_logs(work_dir: Path) -> Logged:
    """Read the logs of a work dir; what is not there or torn is left out."""
    logged = Logged()
    try:
        log = read_log(work_dir)
    except LogError:
        # Nothing was logged yet, or nothing of it can be read.
        logged.unread = sum(map(_lines, scalar_files(work_dir)))
        return logged
    logged.unread = log.unread
    logged.starts = [start.file.parents[1] for start in log.starts if start.first is not None]
    logged.train = {name: _points(curve) for name, curve in log.train.items()}
    for name, curve in log.val.items():
        for step, value in _points(curve) if name not in _TIMES else ():
            logged.validations.setdefault(int(step), {})[name] = value
    logged.validations = dict(sorted(logged.validations.items()))
    for folder in logged.starts:
        text = _log_text(folder)
        logged.environment = environment_of(text) or logged.environment
        if (found := printed_classes(text)) is not None:
            score, classes = found
            # The iteration is in the scalars alone.
            steps = [
                step
                for step, metrics in logged.validations.items()
                if abs(metrics.get('mIoU', math.inf) - score) < 0.006
            ]
            if steps:
                logged.classes_at, logged.classes = steps[-1], classes
    return logged


def _lines(file: Path) -> int:
    """Lines with something in them; 1 where the file cannot be opened."""
    try:
        text = file.read_text(encoding='utf-8', errors='replace')
    except OSError:
        return 1
    return sum(bool(line.strip()) for line in text.splitlines())


def _points(curve: Curve) -> Points:
    pairs = zip(curve.iterations.tolist(), curve.values.tolist(), strict=True)
    return [(step, value) for step, value in pairs if math.isfinite(value)]


def _log_text(folder: Path) -> str:
    """The text of the log in the folder of a start; '' where there is none."""
    path = folder / f'{folder.name}.log'
    return path.read_text(encoding='utf-8', errors='replace') if path.is_file() else ''


def environment_of(text: str) -> dict[str, str]:
    """The environment that mmengine writes at the head of a log, by name, in its order.

    How PyTorch was compiled, a page of text, is left out.
    """
    found = {}
    for title in ('System environment', 'Runtime environment'):
        block = re.search(rf'^{title}:\n(.*?)(?=^-{{20,}}$|^\S|\Z)', _joined(text), re.M | re.S)
        for line in block.group(1).splitlines() if block else ():
            match = re.fullmatch(r' {4}(\S[^:]*): (.*)', line)
            if match and match.group(1) != 'PyTorch compiling details':
                found[match.group(1)] = match.group(2).strip()
    return found


def _joined(text: str) -> str:
    """The head of a log, with the list of compile options, which begins at the margin, indented."""
    return re.sub(r'^  - ', '      - ', text[:20_000], flags=re.M)
