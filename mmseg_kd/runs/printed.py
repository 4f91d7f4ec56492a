"""IoU by class: the host prints it, and writes it nowhere else."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Literal


def printed_classes(
    text: str, split: Literal['val', 'test'] = 'val'
) -> tuple[float, dict[str, float]] | None:
    """The mIoU and the IoU by class of the last complete validation, or test, in a log's text."""
    result = None
    table: dict[str, float] = {}
    head: list[str] = []
    end = re.compile(rf'\({split}\) \[ *(\d+)/\1\].*mIoU: ([\d.]+)')
    for line in text.splitlines():
        if 'per class results' in line:
            table, head = {}, []
        elif line.startswith('|'):
            cells = [cell.strip() for cell in line.strip().removeprefix('|').split('|')[:-1]]
            if not head:
                head = cells
            elif 'IoU' in head and len(cells) >= len(head):
                # The name of a class may have the character that parts the columns.
                numbers = cells[len(cells) - len(head) + 1 :]
                name = line.strip()[1:].rsplit('|', len(head))[0].strip()
                with suppress(ValueError):
                    table[name] = float(numbers[head.index('IoU') - 1])
        elif table and (match := end.search(line)):
            result = float(match.group(2)), table
    return result
