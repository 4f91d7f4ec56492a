"""Which checkpoint a run goes on from."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path

from mmengine.logging import print_log

from mmseg_kd.checkpoints.seal import check_intact, saved_at
from mmseg_kd.errors import CheckpointError

# mmengine writes the newest checkpoint's path into a file of this name in the work folder.
POINTER = 'last_checkpoint'


def newest_intact(
    folder: Path, template: str, pointer: Path | None = None, since: int = 0
) -> Path | None:
    """The newest checkpoint that is whole.

    The newest is the one that was written last, as its seal says: names tell little where a run
    began anew in its old folder, and times of files little where they were copied. One without a
    seal has the time of its file alone; of such, none is newer than the one that is pointed to,
    unless its number is higher.

    Args:
        folder: Where to look.
        template: Their name, with {} for a number, as in 'iter_{}.pth'.
        pointer: A file with the path of one in it, which may lie elsewhere.
        since: Skip those that were written before, in nanoseconds since 1970.

    Returns:
        Its path; None where there is no checkpoint at all. Each that was skipped for being
        torn has a line in the log.

    Raises:
        CheckpointError: There are checkpoints, and none of them is whole.
    """
    numbers = _numbered(folder, template)
    pointed = _pointed_by(pointer, numbers)
    if not numbers and pointed is not None:
        numbers = {pointed: ()}
    sealed = {path: saved_at(path) for path in numbers}
    times = {path: time or path.stat().st_mtime_ns for path, time in sealed.items()}
    if pointed in numbers and not sealed[pointed]:
        times[pointed] = max(times[path] for path in numbers if not sealed[path])
    candidates = [path for path in numbers if times[path] >= since]
    candidates.sort(key=lambda path: (times[path], numbers[path]), reverse=True)
    for path in candidates:
        try:
            check_intact(path)
        except CheckpointError as error:
            print_log(f'Skipped: {error}', logger='current', level=logging.WARNING)
        else:
            return path
    if candidates:
        raise CheckpointError(
            f'{folder}: none of its {len(candidates)} checkpoints is whole. Name another one with '
            '--resume FILE, or move them away to begin anew.'
        )
    return None


def _numbered(folder: Path, template: str) -> dict[Path, tuple[int, ...]]:
    """The checkpoints of a folder and the numbers in their names."""
    pattern = re.escape(template).replace(r'\{\}', r'(\d+)(?:_iter_(\d+))?')
    found = {}
    for path in folder.glob('*'):
        match = re.fullmatch(pattern, path.name)
        if match and path.is_file():
            found[path] = tuple(int(number) for number in match.groups() if number)
    return found


def _pointed_by(pointer: Path | None, known: Iterable[Path]) -> Path | None:
    """The one of the known paths that has the name that is pointed to, or another file."""
    if pointer is None or not pointer.is_file():
        return None
    path = Path(pointer.read_text(encoding='utf-8', errors='replace').strip())
    here = [one for one in known if one.name == path.name]
    return here[0] if here else path if path.is_file() else None
