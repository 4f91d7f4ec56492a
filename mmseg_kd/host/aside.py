"""What only draws, logs or measures beside a training, and must never end it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mmengine.logging import print_log

from mmseg_kd.host.quiet import explain


@contextmanager
def aside(what: str, give_up: Callable[[], None]) -> Iterator[None]:
    """Inside, whatever fails is a warning, and the run goes on without it.

    Args:
        what: What the warning calls it.
        give_up: Sees to it that it is not tried again: one warning is enough.
    """
    try:
        yield
    except Exception as error:  # whatever a network, a terminal or a service raises
        text = f'{what}: {explain(error)} The training goes on without.'
        print_log(text, logger='current', level=logging.WARNING)
        give_up()
