"""What a live progress display looks like, at any width of the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.text import Text

# Between two entries of a line.
GAP = '  '
# A bar is left out where it would be shorter than this.
SHORTEST_BAR = 6


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

    @property
    def percentage(self) -> int:
        return 100 * self.done // max(self.total, 1)


@dataclass(frozen=True)
class LiveProgress:
    """Bars, and below them groups of entries.

    Each group begins on a line of its own and goes on over as many as it needs: an entry is never
    torn in two, and one that is wider than the terminal loses the middle of its name.

    Attributes:
        stages: One bar each.
        groups: Names and values; a name may be empty.
    """

    stages: Sequence[Stage]
    groups: Sequence[Sequence[tuple[str, str]]] = field(default=())

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        # The last column stays empty: terminals differ in what they do after it.
        width = max(options.max_width - 1, 1)
        dots = '..' if options.ascii_only else '…'
        lines = self._bars(width, console, options)
        for group in self.groups:
            lines += [list(line.render(console)) for line in _flow(group, width, dots)]
        for index, line in enumerate(lines):
            if index:
                yield Segment.line()
            yield from Segment.adjust_line_length(line, width, pad=False)

    def _bars(self, width: int, console: Console, options: ConsoleOptions) -> list[list[Segment]]:
        """Name, bar, count, percentage and time left: the last four go where there is no room."""
        digits = max(len(str(stage.total)) for stage in self.stages)
        columns = {
            'name': [stage.name for stage in self.stages],
            'count': [f'{stage.done:>{digits}}/{stage.total}' for stage in self.stages],
            'percentage': [f'{stage.percentage:3d}%' for stage in self.stages],
            'left': [f'eta {_clock(stage.seconds_left)}' for stage in self.stages],
        }
        widths = {name: max(map(cell_len, column)) for name, column in columns.items()}

        def room() -> int:
            return width - sum(widths.values()) - len(GAP) * len(widths)

        if room() < SHORTEST_BAR:
            del widths['percentage']
        has_bar = room() >= SHORTEST_BAR
        for name in ('left', 'name'):
            if room() < -len(GAP):  # the gap beside the bar that is not there
                del widths[name]
        lines = []
        for index, stage in enumerate(self.stages):
            parts = [[Segment(columns[name][index].ljust(widths[name]))] for name in widths]
            if has_bar:
                bar = ProgressBar(max(stage.total, 1), stage.done, complete_style='bar.finished')
                drawn = console.render(bar, options.update(width=room()))
                # Without colours nothing is drawn of what is left.
                parts.insert(1, Segment.adjust_line_length(list(drawn), room()))
            lines.append([segment for part in parts for segment in (Segment(GAP), *part)][1:])
        return lines


def _clock(seconds: float | None) -> str:
    """Hours, minutes and seconds, or days, hours and minutes."""
    if seconds is None:
        return '-:--:--'
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours_of_day = divmod(hours, 24)
    return (
        f'{days}d {hours_of_day:02}:{minutes:02}' if days else f'{hours}:{minutes:02}:{seconds:02}'
    )


def _flow(entries: Sequence[tuple[str, str]], width: int, dots: str) -> list[Text]:
    """The entries side by side, in as many lines as they need."""
    lines: list[Text] = []
    for name, value in entries:
        name = _shortened(name, width - cell_len(value) - 1, dots)
        entry = Text.assemble((f'{name} ' if name else '', 'dim'), value, end='')
        if lines and lines[-1].cell_len + len(GAP) + entry.cell_len <= width:
            lines[-1].append(GAP).append_text(entry)
        else:
            lines.append(entry)
    return lines


def _shortened(text: str, width: int, dots: str) -> str:
    """A text without its middle where it is too long: names differ at both ends."""
    if len(text) <= width:
        return text
    kept = max(width - len(dots), 0)
    return f'{text[: kept - kept // 2]}{dots}{text[len(text) - kept // 2 :]}'
