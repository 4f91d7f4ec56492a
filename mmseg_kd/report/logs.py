"""What a work dir's logs say: values over the iterations, results by class, the environment.

A run that was resumed has one folder of logs for each start. They are put together in the order
of their names, which are times: from where a later one begins, the earlier ones are left out.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SCALARS = 'vis_data/scalars.json'
CONFIG = 'vis_data/config.py'
# Metrics of a validation that are no measure of quality.
_TIMES = {'time', 'data_time'}
_ENTRIES = {'iter', 'step', 'epoch'}

Points = list[tuple[int, float]]


@dataclass
class RunLog:
    """The logs of one work dir.

    Attributes:
        segments: Folders of the starts of the training, the oldest first.
        train: What was logged in training, by name: (iteration, value).
        validations: Metrics of each validation, by iteration.
        classes: IoU in percent by class, of the last validation that printed them.
        classes_at: The iteration of that validation.
        environment: What the newest log says of the machine and the versions, by name.
        torn: Lines that could not be read, by file.
    """

    segments: list[Path] = field(default_factory=list)
    train: dict[str, Points] = field(default_factory=dict)
    validations: dict[int, dict[str, float]] = field(default_factory=dict)
    classes: dict[str, float] = field(default_factory=dict)
    classes_at: int | None = None
    environment: dict[str, str] = field(default_factory=dict)
    torn: dict[str, int] = field(default_factory=dict)

    @property
    def last_iteration(self) -> int:
        """The last iteration that was logged; 0 where none was."""
        steps = [points[-1][0] for points in self.train.values() if points]
        return max([*steps, *self.validations, 0])

    @property
    def best(self) -> tuple[int, float] | None:
        """Iteration and mIoU in percent of the best validation."""
        scores = [(i, m['mIoU']) for i, m in self.validations.items() if 'mIoU' in m]
        return max(scores, key=lambda one: one[1]) if scores else None

    def median(self, name: str) -> float | None:
        """The median of what was logged under a name; None where nothing was."""
        values = sorted(value for _, value in self.train.get(name, []))
        if not values:
            return None
        middle = len(values) // 2
        return (values[middle] + values[-middle - 1]) / 2


def read_logs(work_dir: Path) -> RunLog:
    """Read the logs of a work dir; what is not there or torn is left out."""
    log = RunLog()
    for path in sorted(work_dir.glob(f'*/{SCALARS}')):
        entries = list(_entries(path, log))
        # The log of a test has no training in it.
        if any('loss' in entry for _, entry in entries):
            log.segments.append(path.parents[1])
            _append(log, entries)
    for folder in log.segments:
        text = _log_text(folder)
        log.environment = environment_of(text) or log.environment
        if (found := class_table(text)) is not None:
            score, classes = found
            # The iteration is in the scalars alone.
            at = [i for i, m in log.validations.items() if abs(m.get('mIoU', -1) - score) < 0.006]
            if at:
                log.classes_at, log.classes = at[-1], classes
    return log


def _entries(path: Path, log: RunLog) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The entries of a file of scalars and their iterations.

    A process that was killed leaves a torn line at the end, or amid what the next one wrote.
    """
    at = 0
    for line in path.read_text(encoding='utf-8', errors='replace').splitlines():
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            # A validation's step is an epoch where the log counts in epochs.
            step = entry.get('iter', at if 'epoch' in entry else entry.get('step', at))
            at = int(step)
        except (ValueError, TypeError, AttributeError, OverflowError):
            name = str(path.relative_to(path.parents[2]))
            log.torn[name] = log.torn.get(name, 0) + 1
        else:
            yield at, entry


def _append(log: RunLog, entries: list[tuple[int, Mapping[str, Any]]]) -> None:
    """Put what a later start logged behind, and in place of, what is there."""
    begin = min(step for step, entry in entries if 'loss' in entry)
    for name, points in log.train.items():
        log.train[name] = [point for point in points if point[0] < begin]
    log.validations = {i: m for i, m in log.validations.items() if i < begin}
    for step, entry in entries:
        numbers = {
            name: float(value)
            for name, value in entry.items()
            if name not in _ENTRIES and _is_finite(value)
        }
        if 'loss' in entry:
            for name, value in numbers.items():
                log.train.setdefault(name, []).append((step, value))
        else:
            found = {name: value for name, value in numbers.items() if name not in _TIMES}
            log.validations.setdefault(step, {}).update(found)


def _is_finite(value: Any) -> bool:
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    )


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


def class_table(text: str) -> tuple[float, dict[str, float]] | None:
    """The mIoU and the IoU by class of the last complete validation in a log's text."""
    result = None
    table: dict[str, float] = {}
    head: list[str] = []
    for line in text.splitlines():
        if 'per class results' in line:
            table, head = {}, []
        elif line.startswith('|'):
            cells = [cell.strip() for cell in line.strip().removeprefix('|').split('|')[:-1]]
            if not head:
                head = cells
            elif 'IoU' in head and len(cells) >= len(head):
                # The name of a class may have the character that parts the columns.
                numbers = cells[len(cells) - len(head) + 1 :]
                name = line.strip()[1:].rsplit('|', len(head))[0].strip()
                with suppress(ValueError):
                    table[name] = float(numbers[head.index('IoU') - 1])
        elif table and (match := re.search(r'\(val\) \[ *(\d+)/\1\].*mIoU: ([\d.]+)', line)):
            result = float(match.group(2)), table
    return result
