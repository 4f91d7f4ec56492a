"""What a user can get wrong, by name.

Every error here carries a message of one or two lines that says what was expected, what came
and how to mend it. The command line prints the message alone and exits with 1.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Sequence
from typing import Any


class KDError(Exception):
    """Base of all errors that a user can mend."""


class ConfigError(KDError, ValueError):
    """A config says something that cannot be done."""


class LayerNotFoundError(ConfigError):
    """A layer is named that the network does not have."""


class ShapeError(ConfigError):
    """What two layers put out cannot be brought to one shape."""


class CheckpointError(KDError):
    """A checkpoint is missing, torn or belongs to another network."""


class DatasetError(KDError):
    """Images or masks are missing or not what the config says."""


class DeviceError(KDError):
    """A device was asked for that is not there."""


class ExportError(KDError):
    """A network cannot be exported, or what was exported computes something else."""


class LogError(KDError):
    """The log of a run is missing or has nothing in it."""


class IterationError(KDError, RuntimeError):
    """The iteration is asked for where neither a runner nor a loop counts it."""


class NonFiniteError(KDError):
    """Losses or gradients are NaN or infinite, and the run is not to go on."""


class ManyErrors(ConfigError):
    """Several errors at once.

    Args:
        errors: Two or more.
    """

    def __init__(self, errors: Sequence[KDError]) -> None:
        self.errors = list(errors)
        lines = (f'  {i}. {error}' for i, error in enumerate(self.errors, 1))
        super().__init__('\n'.join([f'{len(self.errors)} problems:', *lines]))


def message_of(error: KDError) -> str:
    """What an error says, without the traceback that a data loader's worker puts before it."""
    kind = type(error)
    return str(error).rpartition(f'{kind.__module__}.{kind.__qualname__}: ')[2].strip()


def nearest(name: object, choices: Iterable[str], n: int = 3) -> str:
    """The `n` choices most like `name`, as the end of a sentence ('nearest: a, b')."""
    pool = list(dict.fromkeys(choices))
    found = difflib.get_close_matches(str(name), pool, n=n, cutoff=0.0)
    return f'nearest: {", ".join(found)}' if found else 'there is none'


def short_repr(value: Any, length: int = 100) -> str:
    """A value as code, cut where it is longer: a message is no place for a whole config."""
    text = repr(value)
    return text if len(text) <= length else f'{text[:length]}[...]'


class Problems:
    """Collects errors, so that all of a config's are reported at once.

    >>> problems = Problems()
    >>> with problems:
    ...     raise ConfigError('first')
    >>> problems.raise_if_any()
    Traceback (most recent call last):
    mmseg_kd.errors.ConfigError: first
    """

    def __init__(self) -> None:
        self.errors: list[KDError] = []

    def add(self, error: KDError | str) -> None:
        """Keep an error; a text is what a `ConfigError` says."""
        self.errors.append(ConfigError(error) if isinstance(error, str) else error)

    def add_unknown_keys(self, given: Iterable[object], known: Collection[str], where: str) -> None:
        """Add a `ConfigError` for each of the keys that stand at a place and mean nothing there."""
        for key in given:
            if key not in known:
                self.add(f'{where}: unknown key {key!r}; {nearest(key, known)}.')

    def __enter__(self) -> None:
        """Inside, a `KDError` is kept, and what follows the context goes on."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: object
    ) -> bool:
        if isinstance(error, ManyErrors):
            self.errors.extend(error.errors)
        elif isinstance(error, KDError):
            self.errors.append(error)
        return isinstance(error, KDError)

    def raise_if_any(self) -> None:
        """Raise the one error there is, or all as `ManyErrors`."""
        if len(self.errors) == 1:
            raise self.errors[0]
        if self.errors:
            raise ManyErrors(self.errors)
