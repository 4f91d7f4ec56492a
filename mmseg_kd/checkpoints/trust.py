"""How far checkpoints are trusted: not at all, unless the user says so."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_trusted: ContextVar[bool] = ContextVar('checkpoints_are_trusted', default=False)

# Torch's own switches: each torch.load of the process, whatever it is told, reads data alone; and,
# unless it is told otherwise, runs code. Both at once are an error of torch's.
_FORCE_DATA, _FORCE_CODE = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD', 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'


def checkpoints_are_trusted() -> bool:
    """Whether the code in a checkpoint may run; not, outside `checkpoint_trust(True)`."""
    return _trusted.get()


@contextmanager
def checkpoint_trust(trusted: bool) -> Iterator[None]:
    """Inside, checkpoints that would run code are refused, or read where `trusted`.

    Without trust every `torch.load` of the process reads data alone, so that libraries which
    open files by themselves, such as timm, run none either.
    """
    before = {name: os.environ.get(name) for name in (_FORCE_DATA, _FORCE_CODE)}
    token = _trusted.set(trusted)
    for name in before:
        os.environ.pop(name, None)
    if not trusted:
        os.environ[_FORCE_DATA] = '1'
    try:
        yield
    finally:
        _trusted.reset(token)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
