"""Writing files that are whole at any moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

from mmseg_kd.checkpoints.save import take_name
from mmseg_kd.checkpoints.seal import seal

# What a name ends with until its file is whole. A killed run may leave one; the next removes it.
TEMPORARY = '.tmp'
# The name of the backend below in mmengine's register.
DURABLE = 'durable'


def write_durably(path: Path, *parts: bytes | memoryview) -> None:
    """Write a file so that `path` names the old content or the new, whole, whenever it ends.

    The content goes to a temporary name beside it and to the disk, and then takes the name. What
    fails leaves `path` as it was and no temporary file.

    Raises:
        OSError: The disk is full, or anything else that the system says.
    """
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        with temporary.open('wb') as file:
            for part in parts:
                file.write(part)
        take_name(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@register_backend(DURABLE)
class DurableBackend(LocalBackend):
    """Local files, written durably; archives of `torch.save` are sealed."""

    def __init__(self) -> None:
        self._waiting: set[str] | None = None

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write a file.

        Raises:
            OSError: As in `write_durably`.
        """
        path = Path(filepath)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, *seal(obj))

    def remove(self, filepath: str | Path) -> None:
        """Remove a file, now or when `removing_last` ends."""
        if self._waiting is None:
            super().remove(filepath)
        else:
            self._waiting.add(str(filepath))

    @contextmanager
    def removing_last(self) -> Iterator[set[str]]:
        """What is removed inside goes at the end, once the rest has worked; else it stays.

        Yields:
            The files that will go.
        """
        waiting: set[str] = set()
        self._waiting = waiting
        try:
            yield waiting
        finally:
            self._waiting = None
        for path in waiting:
            super().remove(path)
