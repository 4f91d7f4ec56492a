"""The page that the command writes: its numbers, its structure, and what it keeps out."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_project import HOSTILE, Project

from mmseg_kd.cli import test as test_command
from mmseg_kd.cli.report import main
from mmseg_kd.report.measurement import Measurement
from mmseg_kd.report.page import render
from mmseg_kd.report.run import Run, read_run

VOID = {'img', 'input', 'meta', 'link', 'br'}


class Page(HTMLParser):
    """A page as elements and their texts.

    Attributes:
        elements: (tag, attributes), in their order.
        cells: Texts of the rows of each table, by the table's identifier or number.
        text: All that is shown.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.stack: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.text = ''
        self.feed(text)
        assert self.stack == [], 'elements that are not closed'

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f'an attribute twice: {tag} {attrs}'
        self.elements.append((tag, {name: value or '' for name, value in attrs}))
        if tag in VOID:
            return
        self.stack.append(tag)
        if tag == 'table':
            self.tables.append([])
        elif tag == 'tr':
            self.tables[-1].append([])
        elif tag in ('td', 'th'):
            self.tables[-1][-1].append('')

    def handle_endtag(self, tag: str) -> None:
        if tag in ('path',):
            return
        assert self.stack, tag
        assert self.stack.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or '' for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        if 'script' in self.stack or 'style' in self.stack:
            return
        self.text += data
        if {'td', 'th'} & set(self.stack):
            self.tables[-1][-1][-1] += data.strip()

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope='module')
def html(project: Project) -> str:
    return project.page.read_text(encoding='utf-8')


@pytest.fixture(scope='module')
def page(html: str) -> Page:
    return Page(html)


@pytest.mark.parametrize('name', ['student', 'baseline', 'teacher'])
def test_numbers_are_those_of_the_test_command(
    project: Project, page: Page, name: str, tmp_path: Path
) -> None:
    folder = project.folder / name
    checkpoint = folder / 'iter_4.pth'
    if name != 'teacher':
        [checkpoint] = folder.glob('best_mIoU_*.pth')
    config = str(project.folder / f'{name}.py')
    assert test_command.main([config, str(checkpoint), '--work-dir', str(tmp_path)]) == 0
    [log] = tmp_path.glob('*/*.log')
    rows = re.findall(r'^\|(.*)\| +([\d.]+|nan) +\| +([\d.]+|nan) +\|$', log.read_text(), re.M)
    theirs = {row[0].strip(): row[1] for row in rows}
    assert list(theirs) == list(HOSTILE)
    [table] = [t for t in page.tables if t[0][0] == 'class']
    column = table[0].index('KL + CD' if name == 'student' else name)
    ours = {row[0]: row[column] for row in table[1:-1]}
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        # Their table leaves zeros at the end away.
        assert ours[key] == ('–' if value == 'nan' else f'{float(value):.2f}')  # noqa: RUF001
    [result] = tmp_path.glob('*/*.json')
    assert table[-1][column] == f'{json.loads(result.read_text())["mIoU"]:.2f}'
    assert f'{table[-1][column]}measured' in page.text.replace('\n', '').replace(' ', '')


def test_gap_and_differences_add_up(page: Page) -> None:
    [table] = [t for t in page.tables if t[0][0] == 'class']
    assert table[0] == [
        'class', 'pixels %', 'KL + CD', 'baseline', 'teacher',
        'KL + CD − baseline', 'KL + CD − teacher',  # noqa: RUF001
    ]  # fmt: skip
    for row in table[1:]:
        student, baseline, teacher, over, under = (
            float(cell.replace('−', '-')) if cell != '–' else None  # noqa: RUF001
            for cell in row[2:]
        )
        for other, difference in ((baseline, over), (teacher, under)):
            if student is None or other is None:
                assert difference is None
            else:
                assert difference == pytest.approx(student - other, abs=0.0051)
    assert sum(float(row[1]) for row in table[1:-1]) == pytest.approx(100, abs=0.05)


def test_nothing_comes_from_elsewhere(html: str, page: Page) -> None:
    for tag, attributes in page.elements:
        for name in ('src', 'href', 'srcset', 'action', 'data', 'poster', 'xlink:href'):
            if name in attributes:
                assert attributes[name].startswith(('data:', '#')), (tag, attributes[name][:80])
    assert not re.search(r'@import|url\(', html)
    assert not re.search(r'https?://', html.replace('https://download.openmmlab.com', ''))
    assert not re.search(r'\bfetch\(|XMLHttpRequest|WebSocket|import\(', html)


def test_hostile_names_are_text(html: str, page: Page) -> None:
    for name in HOSTILE:
        assert name in page.text
    assert '<img src=x' not in html
    assert 'alert(2)</script>' not in html
    assert not any(name.startswith('on') for _, attributes in page.elements for name in attributes)
    # Two of data and one of ours are the kinds of scripts there are.
    kinds = Counter(one.get('type', 'code') for one in page.all('script'))
    assert kinds['code'] == 1
    assert set(kinds) == {'code', 'application/json'}


def test_structure(page: Page) -> None:
    identifiers = [a['id'] for _, a in page.elements if 'id' in a]
    assert len(identifiers) == len(set(identifiers))
    for link in page.all('a'):
        assert link['href'].removeprefix('#') in identifiers
    labels = {label['for'] for label in page.all('label')}
    for tag in ('input', 'select'):
        for field in page.all(tag):
            assert field['id'] in labels
    for _, attributes in page.elements:
        if 'aria-labelledby' in attributes:
            assert attributes['aria-labelledby'] in identifiers
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r'h[1-6]', tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))
    pictures = [one for one in page.all('img') if one['src'] != 'data:,']
    # Image, mask and three networks for each of three images.
    assert len(pictures) == 15
    assert all(one['alt'] for one in pictures)
    assert len({one['alt'] for one in pictures}) == 15


def test_sections_have_what_they_are_for(page: Page) -> None:
    terms = next(t for t in page.tables if 'student layer' in t[0])
    assert [row[:2] for row in terms[1:]] == [['KL + CD', 'logits'], ['KL + CD', 'features']]
    assert 'LinearDecay(begin=1, end=4)' in terms[1]
    assert 'Between KL + CD, baseline: nothing but the terms.' in page.text
    charts = [a['id'] for tag, a in page.elements if a.get('class') == 'chart']
    assert charts == [
        'chart-miou', 'chart-task-loss', 'chart-terms-0', 'chart-learning-rate', 'chart-gradients',
        'chart-weights-0',
    ]  # fmt: skip
    *_, weights = (t for t in page.tables if t[0] == ['iteration', 'logits', 'features'])
    assert [row[1] for row in weights[1:]] == ['2', '2', '1.333', '0.6667']
    heat = next(t for t in page.tables if t[0][1:] == list(HOSTILE))
    for row in heat[1:]:
        shares = [float(cell) if cell != '·' else 0.0 for cell in row[1:]]
        assert sum(shares) == pytest.approx(100, abs=2.5)
    cost = next(t for t in page.tables if 'GFLOPs' in t[0])
    assert [row[0] for row in cost[1:]] == ['KL + CD', 'baseline', 'teacher']
    known = [cell for row in cost[1:] for cell in (*row[1:7], row[8])]
    assert all(float(cell.replace(',', '')) >= 0 for cell in known)
    environment = next(t for t in page.tables if t[0][0] == 'of the training')
    assert 'PyTorch' in [row[0] for row in environment]
    assert 'mmseg-kd train' in page.text
    assert '--seed 0' in page.text


def test_second_call_measures_nothing(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, html: str
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise AssertionError('a network was built')

    monkeypatch.setattr('mmseg_kd.report.subject.build_segmentor', fail)
    out = tmp_path / 'again.html'
    folders = [project.student, project.baseline, project.teacher]
    assert main([*map(str, folders), '--out', str(out), '--pictures', '3']) == 0
    without_time = [re.sub(r'<time.*?</time>', '', text) for text in (html, out.read_text())]
    assert without_time[0] == without_time[1]


def test_other_weights_are_measured_anew(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / 'run'
    shutil.copytree(project.baseline, folder)
    [checkpoint] = folder.glob('best_mIoU_*.pth')
    shutil.copy(next(project.student.glob('best_mIoU_*.pth')), checkpoint)
    capsys.readouterr()
    assert main([f'one more={folder}', '--pictures', '0']) == 0
    printed = capsys.readouterr().out
    assert 'Measuring one more: 3/3 images' in printed
    assert (folder / 'report.html').is_file()
    assert 'There are no pictures' in (folder / 'report.html').read_text(encoding='utf-8')


def synthetic(title: str, role: str, classes: int, seed: int) -> Run:
    """A run that was measured on many classes, and logged for long."""
    rng = np.random.default_rng(seed)
    counts = np.zeros((classes + 2, classes + 2), dtype=int)
    counts[1:-1, 1:-1] = rng.integers(0, 50, (classes, classes)) + 5000 * np.eye(classes, dtype=int)
    names = [f'class {i}' for i in range(classes)]
    colours = [[i % 256, 0, 0] for i in range(classes)]
    run = Run(title, Path('nowhere'), role)
    run.measured = Measurement(
        names, colours, counts.tolist(), ['a.jpg'], [1], [2], [512, 512], 10, 20, 0.1, 'device'
    )
    run.log.starts = [Path('nowhere')]
    steps = range(50, 160_001, 50)
    for name in ('loss', 'decode.loss_ce', 'lr', 'time', 'kd.a', 'kd_weight.a'):
        run.log.train[name] = [(i, float(rng.random())) for i in steps]
    return run


def test_150_classes_and_160k_iterations_stay_small() -> None:
    roles = ('student', 'student', 'baseline', 'teacher')
    runs = [synthetic(f'run {i}', role, 150, i) for i, role in enumerate(roles)]
    text = render(runs, {}, 6)
    assert len(text.encode()) < 1.5 * 2**20
    page = Page(text)
    # A picture for each network, read by a script, in place of 22,500 cells.
    assert len([a for a in page.all('img') if a['src'].startswith('data:image/png')]) == 4
    assert len(next(t for t in page.tables if t[0][0] == 'class')) == 152
    assert any(a.get('id') == 'class-filter' for a in page.all('input'))


def test_title_and_name_of_the_file(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'deep' / 'page.html'
    args = [f'<b>mine<i>={project.student}', '--no-measure', '--out', str(out)]
    assert main([*args, '--title', 'A & B <i>']) == 0
    text = out.read_text(encoding='utf-8')
    assert '<title>A &amp; B &lt;i&gt;</title>' in text
    assert '&lt;b&gt;mine&lt;i&gt;' in text
    assert '<b>mine' not in text
    assert main([str(project.student), '--out', str(tmp_path / 'page.pdf')]) == 1
    assert 'ends in .html' in capsys.readouterr().err
    assert main([str(project.student), '--pictures', '-1']) == 1
    assert '--pictures: expected 0 or more, got -1' in capsys.readouterr().err


def test_without_measuring_the_logs_speak(project: Project, tmp_path: Path) -> None:
    out = tmp_path / 'page.html'
    assert main([str(project.student), '--no-measure', '--out', str(out)]) == 0
    page = Page(out.read_text(encoding='utf-8'))
    [table] = [t for t in page.tables if t[0][0] == 'class']
    run = read_run(str(project.student))
    assert run.log.classes_at == 4
    assert [row[0] for row in table[1:-1]] == list(HOSTILE)
    for row in table[1:-1]:
        value = run.log.classes[row[0]]
        assert row[1] == (f'{value:.2f}' if value == value else '–')  # noqa: RUF001
    assert table[-1][1] == f'{run.log.validations[4]["mIoU"]:.2f}'
    assert 'Not measured' in page.text
