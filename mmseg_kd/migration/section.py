"""A dict of the old config that keeps account of which of its keys have been read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mmseg_kd.checks import is_number
from mmseg_kd.host.quiet import explain
from mmseg_kd.migration.report import Report
from mmseg_kd.migration.source import KeyPath


class Section:
    """A dict, where it stands, and which of its keys nobody has asked for yet.

    Args:
        values: The dict.
        path: The keys that lead to it.
        report: Gets remarks about it.
    """

    def __init__(self, values: Mapping[str, Any], path: KeyPath, report: Report) -> None:
        self.values = dict(values)
        self.path = path
        self.report = report
        self._unread = dict.fromkeys(self.values)

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def take(self, key: str, default: Any = None) -> Any:
        """The value of `key`, which counts as read."""
        self._unread.pop(key, None)
        return self.values.get(key, default)

    def peek(self, key: str, default: Any = None) -> Any:
        """The value of `key`, which someone else is still to read."""
        return self.values.get(key, default)

    def number(self, key: str, default: Any = None, is_dropped: bool = False) -> Any:
        """The number that `key` has; `default` where it has none, reported if something else.

        Args:
            is_dropped: Whether the whole dict is left out then: no default takes its place.
        """
        value = self.take(key, default)
        if value is None or is_number(value):
            return value
        instead = '' if is_dropped else f'; {default} is taken'
        self.problem(f'expected a number, got {value!r}{instead}', key)
        return default

    def section(self, key: str) -> Section | None:
        """The dict that `key` leads to; None where there is none in it, or something else."""
        value = self.take(key)
        if isinstance(value, Mapping) and value:
            return Section(value, (*self.path, key), self.report)
        if value:
            self.problem(f'expected a dict, got {value!r}', key)
        return None

    def section_or_empty(self, key: str) -> Section:
        """As `section`; an empty one where there is none."""
        return self.section(key) or Section({}, (*self.path, key), self.report)

    def sections(self, key: str) -> Iterator[Section]:
        """The dicts of a list, or the one dict that stands in its place."""
        value = self.take(key)
        if isinstance(value, Mapping):
            yield Section(value, (*self.path, key), self.report)
            return
        if value and not isinstance(value, list | tuple):
            self.problem(f'expected a dict or a list of dicts, got {value!r}', key)
            return
        for index, item in enumerate(value or ()):
            if isinstance(item, Mapping):
                yield Section(item, (*self.path, key, index), self.report)
            else:
                self.problem(f'expected a dict, got {item!r}', key, index)

    def drop(self, key: str, reason: str, unless: Iterable[Any] = ()) -> None:
        """Leave a key out, with a note that says why, where it is there.

        Args:
            unless: Values that nothing need be said of.
        """
        if key in self._unread and self.take(key) not in list(unless):
            self.note(f'dropped: {reason}', key)

    @contextmanager
    def tolerant(self) -> Iterator[None]:
        """Report what cannot be converted inside because a value is not what it should be."""
        try:
            yield
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            self.problem(f'cannot be read: {explain(error)}')
            self.rest()

    def rest(self) -> dict[str, Any]:
        """All that nobody has asked for, which counts as read."""
        rest = {key: self.values[key] for key in self._unread}
        self._unread.clear()
        return rest

    def note(self, text: str, *keys: str | int) -> None:
        """Say something of the dict, or of what `keys` lead to in it."""
        self.report.note((*self.path, *keys), text)

    def problem(self, text: str, *keys: str | int) -> None:
        """Say that the dict, or what `keys` lead to in it, was not converted."""
        self.report.problem((*self.path, *keys), text)

    def close(self) -> None:
        """Report the keys that nobody has asked for."""
        for key in self.rest():
            self.problem('unknown key, left out', key)
