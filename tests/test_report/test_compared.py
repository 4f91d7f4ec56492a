"""A comparison over seeds as the subject of a page."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from mmseg_kd.cli.report import main
from mmseg_kd.errors import ConfigError
from mmseg_kd.report.comparison import Compared
from mmseg_kd.report.page import render
from mmseg_kd.report.run import BASELINE, STUDENT, TEACHER, read_runs
from mmseg_kd.runs.comparison import Comparison, read_comparison
from mmseg_kd.runs.results import Results, Row, cells, collect
from mmseg_kd.runs.statistics import Estimate, estimate

SECTION = re.compile(r'<section id="comparison".*?</section>', re.S)


def texts(html: str) -> list[str]:
    """What the cells of tables show."""
    found = re.findall(r'<(?:td|th)\b[^>]*>(.*?)</(?:td|th)>', html, re.S)
    return [re.sub(r'<[^>]*>', '', one).strip() for one in found]


def test_its_runs(compared: tuple[str, Path, str]) -> None:
    _, work, _ = compared
    runs = {run.title: run for run in read_runs([str(work)])}
    # The method that failed has nothing to show.
    assert {title: run.role for title, run in runs.items()} == {
        'kl': STUDENT,
        'alone': BASELINE,
        'teacher': TEACHER,
    }
    assert runs['kl'].checkpoint == str(work / 'kl' / 'seed0' / 'iter_8.pth')


def test_the_page(compared: tuple[str, Path, str], tmp_path: Path) -> None:
    _, work, _ = compared
    out = tmp_path / 'page.html'
    assert main([f'Plan A={work}', '--out', str(out), '--pictures', '1']) == 0
    page = out.read_text(encoding='utf-8')
    found = SECTION.search(page)
    assert found is not None
    section = found.group()
    results = collect(read_comparison(work))
    shown = texts(section)
    for row in results.rows:
        start = shown.index(row.method)
        assert shown[start : start + len(cells(row))] == list(cells(row))
    assert {'a', 'b', 'c', 'd', 'e'} <= set(shown)
    assert section.count('class="band ') == 4
    assert section.count('class="x-name" aria-hidden="true">minute<') == 1
    assert '2 of 7 runs have no result yet.' in section
    assert 'The networks of Plan A are those of seed 0 alone' in page
    # What the page measures of the network of a seed is what the comparison tested.
    iou = [row.values[0] for row in results.rows]
    summary = page.partition('<section id="configuration"')[0]
    measured = [float(value) for value in re.findall(r'class="value">([\d.]+)<', summary)]
    for value in iou:
        assert any(value == pytest.approx(one, abs=0.006) for one in measured)


def test_a_page_without_a_comparison_has_no_such_section(compared: tuple[str, Path, str]) -> None:
    _, work, _ = compared
    page = render(read_runs([str(work / 'kl' / 'seed0')]), {}, 0)
    assert SECTION.search(page) is None
    assert '#comparison' not in page


def test_a_comparison_that_has_not_begun(tmp_path: Path) -> None:
    Comparison(tmp_path, 'plan.py', 'alone', {'alone': 8}, [0], False).write()
    with pytest.raises(ConfigError, match='none of the runs of the comparison has begun'):
        read_runs([str(tmp_path)])


def row(method: str, *gains: float, share: float | None = None) -> Row:
    gain = estimate(gains) if gains else None
    part = None if share is None else Estimate(share)
    values = {seed: 50 + one for seed, one in enumerate(gains or (0.0,))}
    return Row(method, values, gain, part, 8, None, None, {}, {}, not gains, {}, None, None, [])


def test_validations_have_a_table_where_their_images_are_others() -> None:
    base, kl = row('alone'), row('kl', 2.0)
    base = replace(base, validations={8: {0: 40.0}})
    kl = replace(
        kl,
        validations={8: {0: 44.0}},
        validation_gain=Estimate(4.0),
        validation_share=Estimate(0.25),
    )
    one = Compared('x', 0, Results(60.0, [base, kl], (), 56.0), {'alone': 'c0', 'kl': 'c1'}, 2, 0)
    assert one.validation_rows == [
        ('alone', '1', '40.00', '', '', ''),
        ('kl', '1', '44.00', '+4.00', '', '25%'),
    ]
    found = SECTION.search(render([], {}, 0, comparisons=[one]))
    assert found is not None
    shown = texts(found.group())
    start = shown.index('44.00')
    assert shown[start - 2 : start + 4] == ['kl', '1', '44.00', '+4.00', '', '25%']
    assert 'Teacher: 56.00.' in found.group()
    same = replace(base, validations={8: base.values})
    assert not replace(one, results=Results(60.0, [same])).validation_rows


@pytest.mark.parametrize(
    ('rows', 'title', 'sentence'),
    [
        ([row('alone')], 'No result yet', 'No method of x has a result beside its baseline.'),
        (
            [row('alone'), row('kl', 1.0, 1.1, 1.2), row('wild', 9.0, 0.0, 1.0)],
            'kl gains 1.10 points on alone',
            '+1.10 points, 95 % interval +0.85 to +1.35, over 3 seeds.',
        ),
        (
            [row('alone'), row('kl', 1.0, 1.1, 1.2, share=0.5)],
            'kl gains 1.10 points on alone',
            '+1.10 points, 95 % interval +0.85 to +1.35, over 3 seeds. 50 % of the gap to the '
            'teacher is closed.',
        ),
        (
            [row('alone'), row('kl', 1.0, -1.0), row('cgd', -1.0, -1.1)],
            'No method is seen to be better than alone',
            'kl gains most: 0.00 points, 95 % interval −12.71 to +12.71, over 2 seeds.',  # noqa: RUF001
        ),
        (
            [row('alone'), row('kl', 1.0, -1.0)],
            'kl is not distinguishable from the baseline',
            '0.00 points, 95 % interval −12.71 to +12.71, over 2 seeds.',  # noqa: RUF001
        ),
        (
            [row('alone'), row('kl', -1.0, -1.0)],
            'kl is worse than the baseline',
            '−1.00 points, 95 % interval −1.00 to −1.00, over 2 seeds.',  # noqa: RUF001
        ),
        (
            [row('alone'), row('kl', 1.0)],
            'kl: +1.00 points to alone, with a single seed',
            'A single seed has no interval: nothing says what another would give.',
        ),
    ],
)
def test_headlines(rows: list[Row], title: str, sentence: str) -> None:
    assert Compared('x', 0, Results(None, rows), {}, 1, 0).headline() == (title, sentence)
