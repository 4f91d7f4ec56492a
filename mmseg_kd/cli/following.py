"""How far a long work is: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

Step = TypeVar('Step')

# Seconds between two lines about the progress where there is no terminal to draw on.
LINE_EVERY_S = 10.0


def follow(
    name: str, total: int, steps: Iterator[Step], unit: str, note: Callable[[Step], str]
) -> None:
    """Go through the steps of a work and show how far it is.

    Args:
        name: Of the work.
        total: How many steps it has.
        steps: Them.
        unit: What a line calls several of them.
        note: What to say behind the number of steps.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not console.is_terminal:
        last = time.monotonic()
        for done, step in enumerate(steps, 1):
            if time.monotonic() - last >= LINE_EVERY_S:
                last = time.monotonic()
                line = f'{name}: {done} of {total} {unit}, {note(step)}'
                print(line, file=sys.stderr, flush=True)
        return
    columns = (
        TextColumn('{task.description}'),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn('{task.fields[note]}'),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(name, total=total, note='')
        for step in steps:
            progress.update(task, advance=1, note=note(step))
