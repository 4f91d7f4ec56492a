"""Measures the networks of a report's runs, as far as that has not been done."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from mmseg_kd.errors import KDError, message_of
from mmseg_kd.host.quiet import explain
from mmseg_kd.report.measurement import time_networks
from mmseg_kd.report.run import Run
from mmseg_kd.report.subject import Subject


class Progress:
    """A line that says how far a measurement is: live on a terminal, once at its end elsewhere."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.begun = time.monotonic()
        self.live = sys.stdout.isatty()

    def __call__(self, done: int, total: int) -> None:
        seconds = time.monotonic() - self.begun
        text = f'Measuring {self.title}: {done}/{total} images, {seconds:.0f} s'
        if self.live:
            print(f'\r{text}', end='\n' if done >= total else '', flush=True)
        elif done >= total:
            print(text, flush=True)


def measure_runs(runs: Sequence[Run], rounds: int = 20) -> dict[str, Subject]:
    """Fill in `measured` of every run that has what it takes, and say of the others why not.

    Returns:
        What was measured, by the runs' titles.
    """
    subjects: dict[str, Subject] = {}
    for run in runs:
        if run.checkpoint is None or run.config is None or run.model is None:
            continue
        try:
            subject = Subject(run)
            if subject.measured is None:
                # Kept at once: the next network may take hours, or fail.
                subject.keep(subject.measure(Progress(run.title)))
        except KDError as error:
            run.add_gap('measured', message_of(error))
        else:
            run.measured = subject.measured
            subjects[run.title] = subject
    sessions = {s.measured.session for s in subjects.values() if s.measured is not None}
    if len(sessions) > 1 or '' in sessions:
        print(f'Timing {len(subjects)} networks in turns', flush=True)
        _time(subjects, rounds)
    return subjects


def _time(subjects: dict[str, Subject], rounds: int) -> None:
    """Time all networks in turns, those too that were timed before: at another time a machine may
    be another."""
    found = {title: s.measured for title, s in subjects.items() if s.measured is not None}
    try:
        networks = {title: subjects[title].network for title in found}
        timed = time_networks(networks, found, rounds)
    except Exception as error:  # whatever a network of the user raises
        for title, measured in found.items():
            run = subjects[title].run
            run.add_gap('speed', f'Not timed: {explain(error)}')
            # Times of other days are not to be compared.
            run.measured = replace(measured, seconds=None, device='', session='')
        return
    for title, measured in timed.items():
        subjects[title].keep(measured)
