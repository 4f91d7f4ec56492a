"""What a comparison has found, from folders as its runs leave them."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from run_logs import train_line, val_line, write_start

from mmseg_kd.cli.compare import show_results, show_status, status_of
from mmseg_kd.runs import results_figures
from mmseg_kd.runs.comparison import Comparison, at_work, is_at_work, read_comparison, state_of
from mmseg_kd.runs.results import Results, as_csv, as_json, as_markdown, collect
from mmseg_kd.runs.results_figures import draw_results

TABLE = """
2026/11/26 17:52:55 - mmengine - INFO - per class results:
+-------+------+-------+
| Class | IoU  |  Acc  |
+-------+------+-------+
|  sky  | {}   |  0.0  |
|  road | nan  | 100.0 |
+-------+------+-------+
2026/11/26 17:52:56 - mmengine - INFO - Iter(test) [4/4]    aAcc: 7.1300  mIoU: 0.5900
"""


def write_test(
    folder: Path, miou: float, start: str = '20260101_000000', part: str = 'test'
) -> None:
    test = folder / part / start
    test.mkdir(parents=True)
    (test / f'{test.name}.json').write_text(json.dumps(dict(mIoU=miou)), encoding='utf-8')
    (test / f'{test.name}.log').write_text(TABLE.format(miou + 1), encoding='utf-8')


def write_comparison(
    folder: Path, values: Mapping[str, Sequence[float]], teacher: float | None = None
) -> Comparison:
    """Values of each method by seed; the first is the baseline."""
    methods = dict.fromkeys(values, 200)
    seeds = range(max(map(len, values.values())))
    comparison = Comparison(
        folder, 'plan.py', next(iter(values)), methods, list(seeds), teacher is not None
    )
    for run in comparison.runs():
        if run.seed is None:
            write_test(run.folder, teacher or 0.0)
        elif run.seed < len(values[run.method]):
            miou = values[run.method][run.seed]
            lines = [
                line
                for i in (100, 200)
                for line in (train_line(i, 1.0, memory=50 + i), val_line(i, miou - 200 / i))
            ]
            write_start(run.folder, '20260101_000000', lines)
            write_test(run.folder, miou)
    comparison.write()
    return comparison


def results_of(folder: Path, teacher: float | None = None, **values: Sequence[float]) -> Results:
    return collect(write_comparison(folder, values, teacher))


def test_a_comparison_is_read_as_it_was_written(tmp_path: Path) -> None:
    comparison = write_comparison(tmp_path, dict(alone=[50.0]), 60.0)
    assert read_comparison(tmp_path) == comparison


def test_figures_and_words(tmp_path: Path) -> None:
    results = results_of(
        tmp_path,
        60.0,
        alone=[50.0, 51.0, 52.0],
        better=[52.0, 53.5, 54.0],
        worse=[48.0, 49.0, 49.9],
        same=[50.5, 50.9, 52.2],
    )
    assert [row.method for row in results.rows] == ['alone', 'better', 'same', 'worse']
    assert [row.verdict for row in results.rows] == [
        'baseline',
        'better than the baseline',
        'not distinguishable from the baseline',
        'worse than the baseline',
    ]
    better = results.rows[1]
    assert better.mean == pytest.approx(53.1667, abs=1e-4)
    assert better.gain is not None and better.share is not None
    assert better.gain.mean == pytest.approx(6.5 / 3)
    assert better.share.mean == pytest.approx(6.5 / 3 / 9)
    assert (better.step_s, better.peak_mib, better.iterations) == (0.5, 250.0, 200)
    assert better.classes == {'sky': pytest.approx(better.mean + 1)}
    assert better.class_gains['sky'].mean == pytest.approx(6.5 / 3)
    text = as_markdown(results)
    line, in_validation = [line for line in text.splitlines() if line.startswith('| better')]
    assert [cell.strip() for cell in line.split('|')[2:10]] == [
        '3',
        '53.17 ± 1.04',
        '+2.17',
        '+1.45 to +2.88',
        '24% (16% to 32%)',
        '500',
        '250',
        '200',
    ]
    assert [cell.strip() for cell in in_validation.split('|')[2:6]] == [
        '3',
        '52.17 ± 1.04',
        '+2.17',
        '+1.45 to +2.88',
    ]
    assert 'Teacher: 60.00.' in text
    assert '**' not in text
    assert 'inf' not in text + as_csv(results) + as_json(results)


def test_validations_are_told_where_their_images_are_others(tmp_path: Path) -> None:
    comparison = write_comparison(tmp_path, dict(alone=[50.0, 51.0], kl=[52.0, 54.0]))
    text = as_markdown(collect(comparison))
    assert 'In the last validation:' in text
    [_, method] = json.loads(as_json(collect(comparison)))['methods']
    assert method['validations'] == {
        '100': {'0': 50.0, '1': 52.0},
        '200': {'0': 51.0, '1': 53.0},
    }
    assert method['validation_gain']['mean'] == 2.5
    assert method['validation_share'] is None
    for run in comparison.runs():
        metrics = run.metrics()
        assert metrics is not None
        write_test(run.folder, metrics['mIoU'] - 1, '20270101_000000')
    assert 'validation' not in as_markdown(collect(comparison))


def test_shares_of_validations_are_of_the_teachers_own(tmp_path: Path) -> None:
    comparison = write_comparison(tmp_path, dict(alone=[50.0, 51.0], kl=[52.0, 54.0]), 60.0)
    write_test(tmp_path / 'teacher', 54.5, part='validation')
    text = as_markdown(collect(comparison))
    assert 'Teacher: 60.00.' in text and 'Teacher: 54.50.' in text
    _, line = [line for line in text.splitlines() if line.startswith('| kl')]
    # 2.5 of 54.5 - 49.5, which the students have one less of in validation
    assert line.split('|')[6].strip().startswith('50%')
    results = json.loads(as_json(collect(comparison)))
    assert results['teacher_validation'] == 54.5
    assert results['methods'][1]['validation_share']['mean'] == 0.5
    _, row = csv.DictReader(as_csv(collect(comparison)).splitlines())
    found = {name: row[f'validation_{name}'] for name in ('mIoU', 'gain', 'share_of_gap')}
    assert found == {'mIoU': '52.0', 'gain': '2.5', 'share_of_gap': '0.5'}


def test_validations_at_the_end_are_compared_and_no_others(tmp_path: Path) -> None:
    comparison = write_comparison(tmp_path, dict(alone=[50.0, 51.0], kl=[52.0, 54.0]))
    # One that was stopped in its last validation, and tested: 40.0 is of half of the training.
    log = tmp_path / 'kl' / 'seed1' / '20260101_000000'
    lines = [train_line(100, 1.0), val_line(100, 40.0), train_line(200, 1.0)]
    shutil.rmtree(log)
    write_start(log.parent, log.name, lines)
    [alone, kl] = collect(comparison).rows
    assert (alone.last_validation, kl.last_validation) == ({0: 49.0, 1: 50.0}, {0: 51.0})
    assert kl.validation_gain is not None and kl.validation_gain.mean == 2.0
    text = as_markdown(collect(comparison)).split('In the last validation:')[1]
    rows = [line.split('|')[1:3] for line in text.splitlines() if line.startswith('|')]
    assert [[cell.strip() for cell in row] for row in rows[2:]] == [['alone', '2'], ['kl', '1']]


def test_a_failed_run_is_named(tmp_path: Path) -> None:
    comparison = write_comparison(tmp_path, dict(alone=[50.0, 51.0], kl=[52.0]))
    assert not collect(comparison).warnings  # it may still come
    (tmp_path / 'kl' / 'seed1').mkdir(parents=True)
    (tmp_path / 'kl' / 'seed1' / '.failed').touch()
    results = collect(comparison)
    assert results.warnings == ['Failed, and missing here: kl, seed 1.']
    assert json.loads(as_json(results))['failed'] == ['kl, seed 1']


def test_a_gap_within_the_noise_has_no_shares(tmp_path: Path) -> None:
    results = results_of(tmp_path, 50.6, alone=[49.0, 51.0], kl=[52.0, 54.0])
    assert results.rows[1].share is None
    [warning] = results.warnings
    assert warning.startswith('The teacher is 0.60 above the baseline, which spreads by 1.41')
    assert results_of(tmp_path / 'far', 52.0, alone=[49.0, 51.0], kl=[52.0, 54.0]).rows[1].share


def test_of_many_intervals_some_leave_out_0_by_chance(tmp_path: Path) -> None:
    values = dict(alone=[50.0, 51.0], kl=[52.0, 53.5], cd=[52.0, 52.5], cgd=[53.0])
    assert 'Each of the 2 intervals is for its method alone' in as_markdown(
        results_of(tmp_path, **values)
    )
    del values['cd']
    assert 'Each of' not in as_markdown(results_of(tmp_path / 'one', **values))


def test_steps_that_become_cheaper(tmp_path: Path) -> None:
    comparison = write_comparison(tmp_path, dict(alone=[50.0], kl=[52.0]))
    start = tmp_path / 'kl' / 'seed0' / '20260101_000000'
    shutil.rmtree(start)
    lines = [train_line(i, 1.0, time=2.0 if i <= 100 else 0.5) for i in range(10, 201, 10)]
    lines.insert(10, val_line(100, 40.0))
    write_start(start.parent, start.name, [*lines, val_line(200, 51.0)])
    [_, kl] = collect(comparison).rows
    assert kl.step_s == 1.25
    assert kl.elapsed_s([0, 50, 100, 200]) == [0.0, 100.0, 200.0, 250.0]
    curves = results_figures._curves(collect(comparison))
    assert curves is not None
    [_, line] = curves.axes[1].get_lines()
    assert line.get_xdata() == pytest.approx([200 / 60, 250 / 60])


def test_bars_without_an_interval_are_told_from_those_with_one(tmp_path: Path) -> None:
    results = results_of(tmp_path, alone=[50.0, 51.0], kl=[52.0, 53.5], cgd=[53.0])
    figure = results_figures._classes(results)
    assert figure is not None
    [legend] = figure.legends
    assert {text.get_text() for text in legend.get_texts()} == {'kl', 'cgd (no interval)'}
    assert 'with 95% intervals' in figure.axes[0].get_xlabel()


def test_a_validation_that_is_no_number_leaves_its_curve(tmp_path: Path) -> None:
    comparison = write_comparison(tmp_path, dict(alone=[50.0, 51.0], kl=[52.0, 53.0]))
    file = next((tmp_path / 'kl' / 'seed1').rglob('vis_data/*.json'))
    file.write_text(file.read_text().replace(': 51.0', ': NaN'))
    [_, kl] = collect(comparison).rows
    found = results_figures.mean_curve(kl)
    assert found is not None
    assert found.mean.iterations.tolist() == [200]
    assert found.mean.values.tolist() == [51.5]


def test_a_single_seed_is_said(tmp_path: Path) -> None:
    results = results_of(tmp_path, 60.0, alone=[50.0], kl=[52.0])
    text = as_markdown(results)
    assert 'a single seed, which has no interval' in text
    assert 'Of a single seed: nothing says what another one would give.' in text
    assert '±' not in text and ' to ' not in text
    for written in (text, as_csv(results), as_json(results)):
        assert 'inf' not in written.lower() and 'nan' not in written.lower()
    methods = json.loads(as_json(results))['methods']
    assert methods[1]['gain'] == dict(mean=2.0, low=None, high=None, seeds=1)


def test_pairs_are_counted_and_not_seeds(tmp_path: Path) -> None:
    results = results_of(tmp_path, 60.0, alone=[50.0, 51.0], kl=[52.0, 53.5, 54.0, 55.0])
    assert results.rows[1].gain is not None and results.rows[1].gain.seeds == 2
    assert 'over the seeds (2 to 4)' in as_markdown(results)
    assert '| kl     | 4, 2 paired |' in as_markdown(results)
    assert as_csv(results).splitlines()[2].startswith('kl,4,2,')


def test_a_share_is_of_the_gap_in_the_seeds_of_its_gain(tmp_path: Path) -> None:
    results = results_of(tmp_path, 60.0, alone=[50.0, 56.0], kl=[52.0])
    share = results.rows[1].share
    assert share is not None and share.mean == pytest.approx(2 / (60 - 50))


def test_a_result_that_is_no_number_is_left_out(tmp_path: Path) -> None:
    results = results_of(tmp_path, 60.0, alone=[50.0, 51.0], kl=[math.nan, 53.0])
    [warning] = results.warnings
    assert warning == 'Left out, as their mIoU is no number: kl, seed 0.'
    assert results.rows[1].values == {1: 53.0}
    assert 'nan' not in (as_markdown(results) + as_csv(results) + as_json(results)).lower()


def test_a_teacher_worse_than_the_baseline_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = results_of(tmp_path, 49.0, alone=[50.0, 51.0], kl=[52.0, 53.0])
    assert results.rows[1].share is None
    [warning] = results.warnings
    assert warning.startswith('The teacher (49.00) is no better than the baseline (50.50)')
    assert f'**{warning}**' in as_markdown(results)
    show_results(tmp_path)
    assert f'**{warning}**' in capsys.readouterr().out
    assert json.loads((tmp_path / 'results.json').read_text())['warnings'] == [warning]


def test_on_a_terminal_there_are_colours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_comparison(tmp_path, dict(alone=[50.0, 51.0], kl=[52.0]), 49.0)
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: True)
    monkeypatch.setenv('TERM', 'xterm')
    monkeypatch.delenv('NO_COLOR', raising=False)
    show_results(tmp_path)
    assert '\x1b[1;31m**The teacher (49.00) is no better' in capsys.readouterr().out
    show_status(tmp_path, status_of)
    rows = [
        re.sub(r'\x1b\[[^A-Za-z]*[A-Za-z]', '', line).split('│')
        for line in capsys.readouterr().out.splitlines()
        if 'seed' in line
    ]
    found = {row[1].strip(): row[2].strip() for row in rows}
    assert found == {
        'alone, seed 0': 'done',
        'kl, seed 0': 'done',
        'alone, seed 1': 'done',
        'kl, seed 1': 'waiting',
    }


def test_what_is_not_done_yet_is_left_out(tmp_path: Path) -> None:
    results = results_of(tmp_path, alone=[50.0, 51.0], kl=[52.0], cgd=[])
    assert [row.method for row in results.rows] == ['alone', 'kl']
    assert results.rows[1].gain is not None and results.rows[1].gain.mean == 2.0
    assert results.teacher is None
    (tmp_path / 'kl' / 'seed0' / 'test' / '20260101_000000' / '20260101_000000.json').write_text(
        '{'
    )
    assert [row.method for row in collect(read_comparison(tmp_path)).rows] == ['alone']


def test_the_curves_of_many_methods_can_be_told_apart(tmp_path: Path) -> None:
    methods = {f'method-{number}': [50.0, 51.0] for number in range(20)}
    curves = results_figures._curves(results_of(tmp_path, alone=[50.0, 51.0], **methods))
    assert curves is not None
    lines = curves.axes[0].get_lines()
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 21
    [legend] = curves.legends
    assert len(legend.get_texts()) == 21
    curves.draw_without_rendering()
    plots = curves.axes[0].get_window_extent()
    assert legend.get_window_extent().y0 >= plots.y1
    assert legend.get_window_extent().x1 <= curves.bbox.x1
    assert plots.height > curves.bbox.height / 2


def test_a_method_before_its_baseline(tmp_path: Path) -> None:
    results = results_of(tmp_path, 60.0, alone=[], kl=[52.0, 53.0])
    [row] = results.rows
    assert (row.gain, row.share, row.class_gains) == (None, None, {})
    assert row.verdict == 'no seed in common with the baseline yet'
    assert [path.name for path in draw_results(results, tmp_path)] == ['curves.png']


def test_nothing_is_written_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_comparison(tmp_path, dict(alone=[], kl=[]))
    show_results(tmp_path)
    assert capsys.readouterr().out == ''
    assert as_csv(Results(None, [])) == ''


def test_states(tmp_path: Path) -> None:
    comparison = write_comparison(tmp_path, dict(alone=[50.0, 51.0], kl=[52.0]))
    runs = {str(run): run for run in comparison.runs()}
    assert state_of(runs['alone, seed 0'], True) == state_of(runs['alone, seed 0'], False)
    late = runs['kl, seed 1']
    assert (state_of(late, True).name, state_of(late, True).iteration) == ('waiting', 0)
    write_start(late.folder, '20260101_000000', [train_line(100, 1.0), val_line(100, 40.0)])
    (late.folder / '.running').touch()
    state = state_of(late, True)
    assert (state.name, state.iteration, state.value) == ('running', 100, 40.0)
    assert state_of(late, False).name == 'stopped'
    (late.folder / '.failed').touch()
    assert state_of(late, False).name == 'failed'


def test_who_works_at_it(tmp_path: Path) -> None:
    assert not is_at_work(tmp_path)
    with at_work(tmp_path):
        assert is_at_work(tmp_path)
    assert not is_at_work(tmp_path)
