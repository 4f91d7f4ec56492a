"""A teacher whose classes are those of the data in another order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmseg_kd.errors import ConfigError


def check_class_order(teachers: Mapping[str, Sequence[str]], classes: Sequence[str]) -> None:
    """See that scores with the same number mean the same class.

    Of teachers with other names nothing can be told.

    Args:
        teachers: Names of the classes by what messages call the teacher: of those whose scores are
            compared with the student's as they are.
        classes: Of the data.

    Raises:
        ConfigError: A teacher has the names of the data in another order.
    """
    ours = [*map(_plain, classes)]
    for label, names in teachers.items():
        theirs = [*map(_plain, names)]
        if theirs == ours or sorted(theirs) != sorted(ours):
            continue
        index = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
        mapping = ', '.join(f'{name!r}: {names[theirs.index(_plain(name))]!r}' for name in classes)
        raise ConfigError(
            f'{label}: its class {index} is {names[index]!r}, and that of the data is '
            f'{classes[index]!r}; the other names are the same, in another order. Put them right '
            f'with {label}.class_map={{{mapping}}}.'
        )


def _plain(name: str) -> str:
    """A name without what spellings differ in."""
    return ''.join(letter for letter in name.casefold() if letter.isalnum())
