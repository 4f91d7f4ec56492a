"""What a live progress display looks like, at any width of the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from rich.columns import Columns
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

# Columns of the terminal that the time left, and the bar and the percentage, need.
WIDTH_WITH_TIME, WIDTH_WITH_BAR = 40, 60


@dataclass(frozen=True)
class Stage:
    """Something that is under way.

    Attributes:
        name: What it is.
        done, total: How far it is.
        seconds_left: How long it will take; None where that is not known.
    """

    name: str
    done: int
    total: int
    seconds_left: float | None = None


@dataclass(frozen=True)
class LiveProgress:
    """Bars, and below them groups of entries.

    Each group is a grid of its own with as many entries a line as there is room for: an entry is
    never torn in two, and one that is wider than the terminal loses the middle of its name.

    Attributes:
        stages: One bar each.
        groups: Names and values; a name may be empty.
    """

    stages: Sequence[Stage]
    groups: Sequence[Sequence[tuple[str, str]]] = field(default=())

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        bars = Table.grid(padding=(0, 2), expand=width >= WIDTH_WITH_BAR)
        for stage in self.stages:
            bars.add_row(*_cells(stage, width))
        yield bars
        for group in self.groups:
            yield Columns([_entry(*entry, width) for entry in group], padding=(0, 2))


def _cells(stage: Stage, width: int) -> list[RenderableType]:
    """Name, bar, count, percentage and time left, as far as there is room."""
    total = max(stage.total, 1)
    seconds = stage.seconds_left
    cells: list[RenderableType] = [_line(stage.name)]
    if width >= WIDTH_WITH_BAR:
        cells.append(ProgressBar(total, stage.done))
    cells.append(_line(f'{stage.done}/{stage.total}'))
    if width >= WIDTH_WITH_BAR:
        cells.append(_line(f'{100 * stage.done // total}%'))
    if width >= WIDTH_WITH_TIME:
        # As the log has it.
        left = '-:--:--' if seconds is None else timedelta(seconds=int(seconds))
        cells.append(_line(f'eta {left}'))
    return cells


def _entry(name: str, value: str, width: int) -> Text:
    room = max(width - len(value) - 1, 2)
    if len(name) > room:
        # Names differ at both ends.
        name = f'{name[: (room - 1) // 2]}..{name[len(name) - (room - 2) // 2 :]}'
    return _line((f'{name} ' if name else '', 'dim'), value)


def _line(*parts: str | tuple[str, str]) -> Text:
    return Text.assemble(*parts, no_wrap=True, overflow='crop')
