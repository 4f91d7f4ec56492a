"""The page in a browser: opened from disk, by keyboard, on a phone, in both themes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from report_project import Project
from test_report.test_page import synthetic

from mmseg_kd.report.page import render


class Opened:
    """A page that was opened from disk, what its console said and what it asked the network for."""

    def __init__(self, browser: Any, path: Path, width: int = 1280, scheme: str = 'light') -> None:
        self.context = browser.new_context(
            viewport=dict(width=width, height=800), color_scheme=scheme
        )
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on('console', lambda message: self.said.append(message.text))
        self.page.on('pageerror', lambda error: self.said.append(str(error)))
        self.page.on('dialog', lambda dialog: (self.said.append('dialog'), dialog.dismiss()))
        self.page.on('request', lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())

    def __enter__(self) -> Any:
        return self.page

    def __exit__(self, *error: object) -> None:
        self.context.close()
        assert self.said == []
        assert [url[:60] for url in self.asked if not url.startswith(('file:', 'data:'))] == []


@pytest.fixture(scope='module')
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with 150 classes."""
    runs = [synthetic(f'run {i}', role, 150, i) for i, role in enumerate(('student', 'teacher'))]
    path = tmp_path_factory.mktemp('many') / 'many.html'
    path.write_text(render(runs, {}, 0), encoding='utf-8')
    return path


@pytest.mark.parametrize('width', [360, 768, 1280])
@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_opens_without_a_word_and_fits(
    browser: Any, project: Project, many: Path, width: int, scheme: str
) -> None:
    for path in (project.page, many):
        with Opened(browser, path, width, scheme) as page:
            assert page.evaluate('document.documentElement.scrollWidth') <= width
            paper = page.evaluate('getComputedStyle(document.body).backgroundColor')
            assert paper == ('rgb(253, 253, 252)' if scheme == 'light' else 'rgb(20, 22, 26)')
            # Pictures are whole.
            assert (
                page.evaluate('[...document.images].filter(i => i.alt && !i.naturalWidth).length')
                == 0
            )
            assert page.evaluate('document.querySelectorAll("img[onerror]").length') == 0


def test_divider_moves_by_keyboard(browser: Any, project: Project) -> None:
    with Opened(browser, project.page) as page:
        page.focus('#divider')
        before = page.evaluate('getComputedStyle(document.querySelector(".over")).clipPath')
        for _ in range(10):
            page.keyboard.press('ArrowRight')
        assert page.input_value('#divider') == '60'
        after = page.evaluate('getComputedStyle(document.querySelector(".over")).clipPath')
        assert (before, after) == ('inset(0px 50% 0px 0px)', 'inset(0px 40% 0px 0px)')
        page.keyboard.press('Home')
        assert page.input_value('#divider') == '0'
        assert '0 % of the width shows KL + CD' in page.get_attribute('#divider', 'aria-valuetext')
        alt = page.get_attribute('.over', 'alt')
        page.select_option('#left-layer', label='ground truth')
        assert page.get_attribute('.over', 'alt').startswith('Ground truth of')
        assert page.get_attribute('.over', 'alt') != alt
        page.select_option('#scene', index=1)
        assert page.inner_text('#scene-why').startswith('2. ')


def test_divider_follows_the_pointer(browser: Any, project: Project) -> None:
    with Opened(browser, project.page) as page:
        page.locator('.stage').scroll_into_view_if_needed()
        box = page.locator('.stage').bounding_box()
        page.mouse.move(box['x'] + box['width'] * 0.2, box['y'] + 5)
        page.mouse.down()
        assert page.input_value('#divider') == '20'
        page.mouse.move(box['x'] + box['width'] * 0.9, box['y'] + 5)
        assert page.input_value('#divider') == '90'
        page.mouse.up()
        page.mouse.move(box['x'] + box['width'] * 0.3, box['y'] + 5)
        assert page.input_value('#divider') == '90'


def test_table_sorts_by_keyboard(browser: Any, project: Project) -> None:
    with Opened(browser, project.page) as page:

        def column(index: int) -> list[str]:
            cells = page.locator(f'#class-table tbody tr > :nth-child({index})')
            return [text.strip() for text in cells.all_inner_texts()]

        page.focus('#class-table thead th:nth-child(3) button')
        page.keyboard.press('Enter')
        values = [float(text) for text in column(3) if text[0].isdigit()]
        assert values == sorted(values, reverse=True)
        head = page.locator('#class-table thead th:nth-child(3)')
        assert head.get_attribute('aria-sort') == 'descending'
        page.keyboard.press('Space')
        values = [float(text) for text in column(3) if text[0].isdigit()]
        assert values == sorted(values)
        assert head.get_attribute('aria-sort') == 'ascending'
        assert len(set(values)) > 1
        page.focus('#class-table thead th:nth-child(1) button')
        page.keyboard.press('Enter')
        names = column(1)
        assert names == page.evaluate(
            'names => [...names].sort((a, b) => a.localeCompare(b))', names
        )
        assert head.get_attribute('aria-sort') == 'none'
        assert page.inner_text('#class-table tfoot th') == 'mean'


def test_curves_are_read_by_keyboard(browser: Any, project: Project) -> None:
    with Opened(browser, project.page) as page:
        plot = page.locator('#chart-weights-0 .plot')
        plot.focus()
        page.keyboard.press('Home')
        assert plot.get_attribute('aria-valuetext') == 'iteration 0: logits 2, features 1'
        page.keyboard.press('ArrowRight')
        page.keyboard.press('ArrowRight')
        assert plot.get_attribute('aria-valuetext') == 'iteration 2: logits 1.333, features 1'
        assert page.inner_text('#chart-weights-0 .readout').split() == [
            'Iteration', '2logits', '1.333features', '1',
        ]  # fmt: skip
        assert page.is_visible('#chart-weights-0 .cursor')


def test_theme_switches_and_stays(browser: Any, project: Project) -> None:
    with Opened(browser, project.page, scheme='dark') as page:

        def paper() -> str:
            colour: str = page.evaluate('getComputedStyle(document.body).backgroundColor')
            return colour

        dark = paper()
        page.focus('#theme')
        assert page.inner_text('#theme') == 'Light theme'
        page.keyboard.press('Enter')
        assert paper() == 'rgb(253, 253, 252)'
        assert page.inner_text('#theme') == 'Dark theme'
        page.reload()
        assert paper() == 'rgb(253, 253, 252)'
        page.click('#theme')
        assert paper() == dark


def test_confusion_shows_one_network(browser: Any, project: Project) -> None:
    with Opened(browser, project.page) as page:
        assert page.locator('.matrix:visible').count() == 1
        page.select_option('#confusion-of', label='teacher')
        assert page.inner_text('.matrix:visible h3') == 'teacher'


def test_150_classes_are_read_and_found(browser: Any, many: Path) -> None:
    with Opened(browser, many) as page:
        page.fill('#class-filter', 'class 14')
        rows = page.locator('#class-table tbody tr:visible')
        assert rows.count() == 11
        page.locator('.map').first.focus()
        page.keyboard.press('ArrowRight')
        page.keyboard.press('ArrowDown')
        assert 'class 1 as class 1:' in page.locator('.matrix .readout').first.inner_text()


def test_print_has_no_controls(browser: Any, project: Project) -> None:
    with Opened(browser, project.page, scheme='dark') as page:
        page.emulate_media(media='print')
        assert (
            page.evaluate('getComputedStyle(document.body).backgroundColor') == 'rgb(255, 255, 255)'
        )
        for selector in ('nav', '#theme', '.compare', '.choice'):
            assert not page.is_visible(selector)
        assert page.locator('.strip img:visible').count() == 15


def test_works_without_scripts(browser: Any, project: Project) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(project.page.as_uri())
    for selector in ('#theme', '.compare', '.choice'):
        assert not page.is_visible(selector)
    assert page.locator('.matrix:visible').count() == 3
    assert page.locator('.chart svg:visible').count() == 6
    context.close()
