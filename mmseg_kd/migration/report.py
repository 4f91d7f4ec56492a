"""What is said of a conversion: what was not converted, what else to know, what to run next."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mmseg_kd.migration.source import KeyPath, Place

DOCUMENT = 'docs/from_segdistill.md'


@dataclass(frozen=True, order=True)
class Remark:
    """A line of the report and the line of the old config that it is about."""

    place: Place
    text: str

    def __str__(self) -> str:
        return f'{self.place}: {self.text}'


class Report:
    """Collects what is said while a config is converted.

    Args:
        place: Tells where a key stands.
    """

    def __init__(self, place: Callable[[KeyPath], Place]) -> None:
        self._place = place
        self._problems: dict[Remark, None] = {}
        self._notes: dict[Remark, None] = {}
        self._commands: dict[str, None] = {}

    def problem(self, path: KeyPath, text: str) -> None:
        """The key at the end of `path` was not converted, or not wholly."""
        self._problems[Remark(self._place(path), f'{dotted(path)}: {text}')] = None

    def note(self, path: KeyPath, text: str) -> None:
        """It was converted or dropped, and the user should know how."""
        self._notes[Remark(self._place(path), f'{dotted(path)}: {text}')] = None

    def run(self, command: str) -> None:
        """A command that the user has to run before the new config can be used."""
        self._commands[command] = None

    @property
    def problems(self) -> list[Remark]:
        """By file and line."""
        return sorted(self._problems)

    @property
    def notes(self) -> list[Remark]:
        """By file and line."""
        return sorted(self._notes)

    @property
    def commands(self) -> list[str]:
        """In the order in which they are to be run."""
        return list(self._commands)

    def lines(self) -> Iterator[str]:
        """The report as text. A line on what was not converted begins with FILE:LINE."""
        if self._problems:
            yield 'Not converted:'
            yield from map(str, self.problems)
        if self._notes:
            yield 'To know:'
            yield from map(str, self.notes)
        if self._commands:
            yield 'To run before the first training:'
            yield from self.commands
        yield f'What SegDistill did otherwise, and which results that changes: {DOCUMENT}'


def dotted(path: KeyPath) -> str:
    """`model.distillation[0].loss_name` for the keys that lead there."""
    text = ''
    for key in path:
        text += f'[{key}]' if isinstance(key, int) else f'.{key}' if text else key
    return text
