"""What the runs reached, and how far that is from baseline and teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmseg_kd.report.run import BASELINE, STUDENT, TEACHER, Run
from mmseg_kd.report.text import number, signed

# What the scale has beyond its ends, as a share of its length.
MARGIN = 0.12


@dataclass(frozen=True)
class Reached:
    """A line of the summary.

    Attributes:
        run: Whose.
        miou: In percent; None: not known.
        source: 'measured' or of which validation.
        over_baseline, to_teacher: In points; None where there is no such run.
        gap_closed: Share of the gap between baseline and teacher, in percent; None where one of
            them is missing or the teacher is no better.
        position: On the scale of all, in percent; None: not known.
    """

    run: Run
    miou: float | None
    source: str
    over_baseline: float | None = None
    to_teacher: float | None = None
    gap_closed: float | None = None
    position: float | None = None


def summarise(runs: Sequence[Run]) -> list[Reached]:
    """A line for each run."""
    scores = [run.miou for run in runs if run.miou is not None]
    low, high = (min(scores), max(scores)) if scores else (0.0, 0.0)
    margin = MARGIN * (high - low) or 1.0
    begin, end = max(0.0, low - margin), high + margin
    baseline, teacher = best(runs, BASELINE), best(runs, TEACHER)
    lines = []
    for run in runs:
        miou = run.miou
        if miou is None:
            lines.append(Reached(run, None, 'not known'))
            continue
        over = miou - baseline if baseline is not None and run.role != BASELINE else None
        to_teacher = miou - teacher if teacher is not None and run.role != TEACHER else None
        closed = None
        if run.role == STUDENT and baseline is not None and teacher is not None:
            closed = 100 * (miou - baseline) / (teacher - baseline) if teacher > baseline else None
        position = 100 * (miou - begin) / (end - begin)
        source = f'validation at iteration {run.scored_at}'
        if run.measured is not None:
            source = 'measured'
        lines.append(Reached(run, miou, source, over, to_teacher, closed, position))
    return lines


def best(runs: Sequence[Run], role: str) -> float | None:
    """The best mIoU of the runs in a role; None where there is none."""
    scores = [run.miou for run in runs if run.role == role and run.miou is not None]
    return max(scores, default=None)


def headline(lines: Sequence[Reached]) -> tuple[str, str]:
    """A title and a sentence: what the best student reached, or what there is instead."""
    known = [line for line in lines if line.miou is not None]
    if not known:
        return 'No result yet', 'No validation is in the logs, and nothing was measured.'
    students = [line for line in known if line.run.role == STUDENT]
    lead = max(students or known, key=lambda line: line.miou or 0)
    title = f'{lead.run.title} reaches {number(lead.miou)} mIoU'
    parts = []
    if lead.over_baseline is not None:
        base = number((lead.miou or 0) - lead.over_baseline)
        parts.append(f'{_distance(lead.over_baseline)} its baseline ({base})')
    if lead.to_teacher is not None:
        teacher = number((lead.miou or 0) - lead.to_teacher)
        parts.append(f'{_distance(lead.to_teacher)} the teacher ({teacher})')
    sentence = f'That is {" and ".join(parts)}.' if parts else ''
    if lead.gap_closed is not None:
        sentence += f' {number(lead.gap_closed, 0)} % of the gap between them is closed.'
    return title, sentence.strip() or 'There is no baseline and no teacher to compare it with.'


def _distance(points: float) -> str:
    """'6.33 points above' and the like."""
    if not round(points, 2):
        return 'level with'
    return f'{number(abs(points))} points {"above" if points > 0 else "below"}'


def description(line: Reached) -> str:
    """A line in words, for those who do not see the scale."""
    parts = [f'{line.run.title}: {number(line.miou)} mIoU']
    if line.over_baseline is not None:
        parts.append(f'{signed(line.over_baseline)} to the baseline')
    if line.to_teacher is not None:
        parts.append(f'{signed(line.to_teacher)} to the teacher')
    return ', '.join(parts)
