"""Runs compared by what they logged."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from run_logs import train_line, val_line, write_run, write_start

from mmseg_kd.cli.analyze_logs import main
from mmseg_kd.errors import LogError
from mmseg_kd.runs.curves import Group, band, draw_curves, full_name, grouped
from mmseg_kd.runs.log import read_log

CONFIG = "model = dict(type='A')\nrandomness = dict(seed={})\n"


def seeds(folder: Path, name: str = 'cgd_seed', plus: float = 0.0) -> list[str]:
    """Three runs of one config: 30, 31 and 35 mIoU at their end; returns their work dirs."""
    mious = ([20.0, 30.0], [32.0, 31.0], [25.0, 35.0])
    text = CONFIG + f'lr = {plus}\n'
    return [
        str(write_run(folder / f'{name}{i}', [m + plus for m in two], text.format(i)))
        for i, two in enumerate(mious)
    ]


def rows(out: str) -> dict[str, list[str]]:
    lines = [[c.strip() for c in line.split('|')[1:-1]] for line in out.splitlines() if '|' in line]
    return {name: cells for name, *cells in lines[2:]}


def test_seeds_of_a_config_are_a_group(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = str(write_run(tmp_path / 'plain', [10.0, 12.0], "model = dict(type='B')\n"))
    assert main([*seeds(tmp_path), alone]) == 0
    out = capsys.readouterr().out
    # The best of the runs are 30, 32 and 35, the last 30, 31 and 35.
    assert rows(out) == {
        'cgd': ['32.33 ± 2.52 (3)', '32.00 ± 2.65 (3)', '200'],
        'plain': ['12.00', '12.00', '200'],
    }
    assert 'mean ± standard deviation (runs)' in out
    assert max(map(len, out.splitlines())) <= 80


def test_one_run_has_no_deviation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(write_run(tmp_path / 'plain', [10.0]))]) == 0
    assert '±' not in capsys.readouterr().out


def test_a_seed_that_ran_twice_is_no_second_seed(tmp_path: Path) -> None:
    names = ('a0', 'a1', 'b0')
    texts = [CONFIG.format(name[1]) for name in names]
    runs = [read_log(write_run(tmp_path / n, [1.0], t)) for n, t in zip(names, texts, strict=True)]
    assert [(g.name, list(g.runs)) for g in grouped(runs)] == [('a', runs[:2]), ('b0', runs[2:])]


def test_runs_whose_config_is_not_kept_stand_alone(tmp_path: Path) -> None:
    runs = [read_log(write_run(tmp_path / name, [1.0])) for name in ('a', 'b')]
    assert [group.name for group in grouped(runs)] == ['a', 'b']


def test_folders_of_one_name_are_told_apart(tmp_path: Path) -> None:
    runs = [read_log(write_run(tmp_path / name / 'student', [1.0])) for name in ('a', 'b')]
    assert [g.name for g in grouped(runs)] == [str(tmp_path / n / 'student') for n in ('a', 'b')]


def test_groups_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, third = seeds(tmp_path)
    assert main([third, f'mine={first},{second}']) == 0
    table = rows(capsys.readouterr().out)
    assert table['mine'][0] == '31.00 ± 1.41 (2)'
    assert table['cgd_seed2'] == ['35.00', '35.00', '200']


def test_mean_and_deviation_are_at_iterations_that_all_have(tmp_path: Path) -> None:
    runs = [read_log(write_run(tmp_path / str(i), [10.0 * i] * (2 + i))) for i in range(2)]
    found = band(Group('g', runs), 'mIoU')
    assert found is not None
    assert found.mean.iterations.tolist() == [100, 200]
    assert found.mean.values.tolist() == [5.0, 5.0]
    assert found.deviation == pytest.approx([50**0.5] * 2)
    assert found.count == 2
    late = write_start(tmp_path / 'late', 'a', [val_line(7, 1.0)])
    with pytest.raises(LogError, match='share no iteration'):
        band(Group('g', [*runs, read_log(late)]), 'mIoU')


def test_keys_may_be_the_end_of_a_name(tmp_path: Path) -> None:
    names = {'decode.loss_ce': 1.0, 'aux_0.loss_aux': 1.0, 'aux_1.loss_aux': 1.0}
    runs = [read_log(write_start(tmp_path, 'a', [train_line(1, 1.0, **names)]))]
    assert full_name('loss_ce', runs) == 'decode.loss_ce'
    assert full_name('loss', runs) == 'loss'
    with pytest.raises(LogError, match=r'aux_0\.loss_aux, aux_1\.loss_aux; give the whole name'):
        full_name('loss_aux', runs)
    with pytest.raises(LogError, match="nothing was logged as 'los'; nearest: loss"):
        full_name('los', runs)


def test_a_picture_has_each_group_in_its_colour_with_a_band(tmp_path: Path) -> None:
    logs = [read_log(path) for path in seeds(tmp_path)]
    shares = []
    for runs in (logs, logs[:1]):
        out = tmp_path / 'curves.png'
        draw_curves([Group('g', runs)], ['mIoU', 'loss'], out)
        pixels = np.asarray(Image.open(out).convert('RGB')).astype(int)
        blue = np.array([0x1F, 0x77, 0xB4])
        pale = (255 * 0.8 + blue * 0.2).round()
        shares.append([np.abs(pixels - colour).max(-1) <= 1 for colour in (blue, pale)])
    (line, shade), (one, nothing) = ([int(s.sum()) for s in pair] for pair in shares)
    assert min(line, one) > 1000
    assert shade > 10_000
    assert nothing < 1000


def test_torn_lines_and_runs_without_a_validation_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_start(tmp_path / 'torn', 'a', [train_line(100, 1.0), val_line(100, 5.0), '{"lo'], end='')
    write_start(tmp_path / 'new', 'a', [train_line(100, 1.0)])
    assert main([str(tmp_path / 'torn'), str(tmp_path / 'new')]) == 0
    out = capsys.readouterr().out
    assert f'{tmp_path / "torn"}: 1 line of its log cannot be read and is left out.' in out
    assert f'{tmp_path / "new"}: no mIoU was logged yet.' in out
    assert rows(out) == {'torn': ['5.00', '5.00', '100'], 'new': ['-', '-', '-']}


def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*args: str) -> str:
        assert main([*args]) == 1
        return capsys.readouterr().err

    one, other, _ = seeds(tmp_path)
    text = refused('absent', f'a={one},nothing', f'a={other}')
    assert re.search(r'(?s)3 problems.*absent: expected.*nothing: expected.*two groups.*NAME', text)
    out = ('--out', str(tmp_path / 'a.png'))
    text = refused(one, '--keys', 'mIou', 'lss', *out)
    assert "as 'mIou'; nearest: mIoU" in text
    assert "as 'lss'; nearest: loss" in text
    assert 'xyz' in refused(one, '--out', str(tmp_path / 'a.xyz'))
    assert 'No such file' in refused(one, '--out', str(tmp_path / 'absent' / 'a.png'))
    assert '--keys goes with --out' in refused(one, '--keys', 'loss')
