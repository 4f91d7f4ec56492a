"""Images a second of an evaluation: mmseg's prediction and metric against the fast ones."""

from __future__ import annotations

from evaluate import ROWS, WAYS, Row, fits, have_equal_counts, make_evaluation, make_scores
from turns import free_memory

from gpu_parts.part import Part
from gpu_parts.timing import NO_MEMORY, has_time, measured, prepare

# The most important first: what follows the head in three sizes, then with a network, then others.
FIRST = (
    Row('-', 'scene', 150, 512, 512),
    Row('-', 'scene', 19, 1024, 2048),
    Row('-', 'scene', 847, 512, 512),
)
ORDER = sorted(
    ROWS,
    key=lambda row: (row not in FIRST, row.network == '-', row.scores, row.classes * row.width),
)
TINY = (
    Row('-', 'scene', 19, 64, 80),
    Row('-', 'noise', 150, 32, 64),
    Row('SegFormer-B0', 'scene', 19, 64, 64),
)

# How long a row may be timed.
ROW_S = 1.5


def run(part: Part) -> None:
    prepare(part)
    for row in TINY if part.rehearse else ORDER:
        name = f'{row.network}, {row.scores}, {row.classes}x{row.height}x{row.width}'
        if has_time(part, 8, name):
            with part.check(f'equal counts of {name}'):
                time_row(part, row)
            free_memory()


def time_row(part: Part, row: Row) -> None:
    """One row; both ways must count the same."""
    ways = WAYS if fits(row) else ('fast',)
    scores, label = make_scores(row)
    runs, metrics = {}, {}
    for way in ways:
        runs[way], metrics[way] = make_evaluation(way, row, scores, label)
    found = measured(part, runs, ROW_S)
    rates = {
        f'{way}, images/s': 1 / found[way].seconds if way in found else NO_MEMORY for way in WAYS
    }
    told = dict(network=row.network, scores=row.scores, classes=row.classes)
    told |= {'image': f'{row.height}x{row.width}', **rates}
    if found.keys() >= set(WAYS):
        told['times'] = found['mmseg'].seconds / found['fast'].seconds
    told |= {f'{way}, MiB': found[way].mib for way in found}
    part.row('evaluation', **told)
    if found.keys() >= set(WAYS):
        assert have_equal_counts(metrics['mmseg'], metrics['fast']), 'the counts differ'
