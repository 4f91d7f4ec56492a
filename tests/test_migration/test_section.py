"""Which keys of an old dict have been read."""

from __future__ import annotations

from old_sections import notes, problems, section

from mmseg_kd.migration.report import DOCUMENT, Report, dotted
from mmseg_kd.migration.source import KeyPath, Place


def test_what_nobody_reads_is_reported() -> None:
    one = section(dict(a=1, b=2, c=3, d=4), 'top')
    assert one.take('a') == 1
    assert one.peek('b') == 2
    one.drop('c', 'it is old')
    one.close()
    assert problems(one) == ['top.b: unknown key, left out', 'top.d: unknown key, left out']
    assert notes(one) == ['top.c: dropped: it is old']


def test_dropping_what_is_not_there_or_means_nothing_says_nothing() -> None:
    one = section(dict(a=None))
    one.drop('a', 'it is old', unless=[None])
    one.drop('b', 'it is old')
    one.close()
    assert problems(one) == notes(one) == []


def test_sections_inside() -> None:
    one = section(dict(a=dict(x=1), b=[dict(y=2), 3], c=4, d=None), 'top')
    inner = one.section('a')
    assert inner is not None
    assert (inner.path, inner.values) == (('top', 'a'), {'x': 1})
    assert [part.path for part in one.sections('b')] == [('top', 'b', 0)]
    assert one.section('c') is None
    assert one.section('d') is None
    assert one.section_or_empty('a').values == {'x': 1}
    empty = one.section_or_empty('d')
    assert (empty.path, empty.values) == (('top', 'd'), {})
    assert problems(one) == ['top.b[1]: expected a dict, got 3', 'top.c: expected a dict, got 4']


def test_numbers() -> None:
    one = section(dict(a=2.5, b='3', c=True))
    assert one.number('a') == 2.5
    assert one.number('absent', 7) == 7
    assert one.number('b', 7) == 7
    assert one.number('c') is None
    assert problems(one) == [
        "b: expected a number, got '3'; 7 is taken",
        'c: expected a number, got True; None is taken',
    ]


def test_tolerant() -> None:
    one = section(dict(a=1, b=2), 'top')
    with one.tolerant():
        one.take('a')['x']
    one.close()
    assert problems(one) == ["top: cannot be read: TypeError: 'int' object is not subscriptable"]


def test_report() -> None:
    def place(path: KeyPath) -> Place:
        return Place('b.py', 3) if path == ('late',) else Place('a.py', 10)

    report = Report(place)
    for _ in range(2):
        report.problem(('late',), 'one')
        report.problem(('x', 'y', 2, 'z'), 'two')
        report.run('do it')
    report.note(('late',), 'three')
    assert list(report.lines()) == [
        'Not converted:',
        'a.py:10: x.y[2].z: two',
        'b.py:3: late: one',
        'To know:',
        'b.py:3: late: three',
        'To run before the first training:',
        'do it',
        f'What SegDistill did otherwise, and which results that changes: {DOCUMENT}',
    ]
    assert dotted(()) == ''
