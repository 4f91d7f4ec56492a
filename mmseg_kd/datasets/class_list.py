"""Names of classes in a text file, with their colours where masks are painted in colours."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmseg_kd.errors import DatasetError

Colour = tuple[int, int, int]

_NUMBERS = r'(?P<r>\d{1,3})[\s,;]+(?P<g>\d{1,3})[\s,;]+(?P<b>\d{1,3})'
_COLOUR_FIRST = re.compile(rf'{_NUMBERS}[\s,;]+(?P<name>.+)')
_COLOUR_LAST = re.compile(rf'(?P<name>.+?)[\s,;]+{_NUMBERS}')
# The first line of a table.
_HEADING = re.compile(r'(name|class)?[\s,;]*r[\s,;]+g[\s,;]+b[\s,;]*(name|class)?', re.IGNORECASE)


@dataclass(frozen=True)
class ClassList:
    """Classes in their order.

    Attributes:
        names: What they are called.
        colours: Red, green and blue of each, 0 to 255; None: masks hold indices.
    """

    names: tuple[str, ...]
    colours: tuple[Colour, ...] | None = None

    def __str__(self) -> str:
        if self.colours is None:
            return ''.join(f'{name}\n' for name in self.names)
        pairs = zip(self.colours, self.names, strict=True)
        return ''.join(f'{r} {g} {b} {name}\n' for (r, g, b), name in pairs)


def read_class_list(path: str | Path) -> ClassList:
    """Read `NAME`, `R G B NAME` or `NAME,R,G,B` in each line of a file; `#` begins a remark.

    Raises:
        DatasetError: The file cannot be read, has no class, one twice, or colours for some only.
    """
    try:
        text = Path(path).read_text(encoding='utf-8-sig')
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f'{path}: expected a text file with a class a line: {error}.') from error
    lines = (line.partition('#')[0].strip() for line in text.splitlines())
    return class_list([line for line in lines if line and not _HEADING.fullmatch(line)], str(path))


def class_list(lines: Sequence[str], where: str) -> ClassList:
    """The classes that lines as in `read_class_list` name.

    Args:
        lines: One a class.
        where: What messages call them.

    Raises:
        DatasetError: As there.
    """
    names: list[str] = []
    colours: list[Colour] = []
    for line in lines:
        found = _COLOUR_FIRST.fullmatch(line) or _COLOUR_LAST.fullmatch(line)
        names.append(found['name'] if found else line)
        if found:
            r, g, b = (int(found[channel]) for channel in 'rgb')
            colours.append((r, g, b))
    if not names:
        raise DatasetError(f'{where}: expected a class a line, got none.')
    for values, what in ((names, 'name'), (colours, 'colour')):
        twice = next((one for index, one in enumerate(values) if one in values[:index]), None)
        if twice is not None:
            raise DatasetError(f'{where}: two classes have the {what} {twice!r}.')
    if colours and len(colours) < len(names):
        raise DatasetError(
            f'{where}: expected a colour for each of {len(names)} classes, R G B NAME, got '
            f'{len(colours)}.'
        )
    if max((value for colour in colours for value in colour), default=0) > 255:
        raise DatasetError(f'{where}: expected colours of 0 to 255.')
    return ClassList(tuple(names), tuple(colours) or None)
