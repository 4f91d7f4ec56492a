"""The JSON file in which a folder says what it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from mmseg_kd.checkpoints.save import atomic_write
from mmseg_kd.errors import LogError

T = TypeVar('T')


def write_description(file: Path, values: Mapping[str, Any]) -> None:
    """Write the file, whole or not at all; what JSON has no form for by its `repr`."""
    with atomic_write(file) as unfinished:
        unfinished.write_text(f'{json.dumps(values, indent=2, default=repr)}\n', encoding='utf-8')


def read_described(kind: Callable[..., T], file: Path, what: str, command: str) -> T:
    """What a folder is: `kind` of the folder and of the values in its file.

    Args:
        kind: Takes the folder, and the values by name.
        file: In the folder.
        what: What messages call it.
        command: Makes such folders.

    Raises:
        LogError: There is none, or its file is not whole.
    """
    try:
        return kind(file.parent, **json.loads(file.read_text(encoding='utf-8')))
    except FileNotFoundError:
        raise LogError(
            f'{file.parent}: there is no {what} ({file.name}); expected the work dir of {command}.'
        ) from None
    except (OSError, ValueError, TypeError) as error:
        raise LogError(f'{file} cannot be read: {error}.') from error
