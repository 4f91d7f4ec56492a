"""What a part of `benchmarks/gpu.py` knows of where it runs, and where it tells what it found."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The repository.
ROOT = Path(__file__).parents[2]


class NotHereError(Exception):
    """What a check needs is not on this machine; its text says what."""


@dataclass
class Part:
    """One part, in the process of its own that runs it.

    Attributes:
        name: Of the part.
        rehearse: Whether this is a rehearsal: on the CPU, Triton in its interpreter, tiny sizes.
        out: The folder of the results; what a part leaves there is brought home.
        scratch: A folder that goes away after the part.
        ends: When the part is stopped, in `time.monotonic`'s seconds.
        records: The file that findings are added to, a line each, so that a part that is stopped
            leaves what it has found until then.
    """

    name: str
    rehearse: bool
    out: Path
    scratch: Path
    ends: float
    records: Path

    @property
    def device(self) -> str:
        """'cuda', or in a rehearsal 'cpu'."""
        return 'cpu' if self.rehearse else 'cuda'

    @property
    def seconds_left(self) -> float:
        """Until the part is stopped."""
        return self.ends - time.monotonic()

    @contextmanager
    def check(self, name: str) -> Iterator[dict[str, Any]]:
        """One question: right where the body ends, wrong where it raises; the part goes on.

        Yields:
            Figures to be told beside the answer.
        """
        figures: dict[str, Any] = {}
        begun = time.monotonic()
        verdict, text = 'right', ''
        try:
            yield figures
        except NotHereError as error:
            verdict, text = 'not here', str(error)
        except Exception as error:
            verdict = 'wrong'
            last = traceback.format_exc().strip().splitlines()
            text = f'{type(error).__name__}: {error}\n' + '\n'.join(last[-14:])
        self._write(
            kind='check',
            name=name,
            verdict=verdict,
            text=text,
            figures=figures,
            seconds=round(time.monotonic() - begun, 2),
        )

    def row(self, table: str, **figures: Any) -> None:
        """One line of a table."""
        self._write(kind='row', table=table, figures=figures)

    def note(self, text: str) -> None:
        """A line of prose."""
        self._write(kind='note', text=text)

    def _write(self, **record: Any) -> None:
        line = json.dumps({'part': self.name, **record}, default=str)
        with self.records.open('a', encoding='utf-8') as file:
            file.write(line + '\n')
        print(line[:2000], flush=True)
