"""The site that mkdocs makes of docs/."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort
from torch import nn

import mmseg_kd
from mmseg_kd.config.fields import NetworkFields, TermFields
from mmseg_kd.config.network_spec import parse_network
from mmseg_kd.config.term_spec import parse_terms
from mmseg_kd.errors import Problems
from mmseg_kd.losses import LogitLoss
from mmseg_kd.registry import KD_LOSSES

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / 'docs' / 'hooks'))

import losses_page  # noqa: E402
import notebook_page  # noqa: E402
import reference_page  # noqa: E402
from formulas import svg  # noqa: E402

REGISTERED = re.findall(
    r'^@\w+\.register_module\(\)\nclass (\w+)',
    '\n'.join(p.read_text('utf-8') for p in sorted(Path(mmseg_kd.__file__).parent.rglob('*.py'))),
    re.M,
)


@pytest.fixture(scope='module')
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('site')
    make(ROOT, folder)
    return folder


def make(root: Path, folder: Path) -> None:
    build(load_config(str(root / 'mkdocs.yml'), strict=True, site_dir=str(folder)))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """What the site is made of, to be changed."""
    root = tmp_path / 'root'
    root.mkdir()
    for path in (*ROOT.glob('*.md'), ROOT / 'mkdocs.yml', ROOT / 'LICENSE'):
        shutil.copy(path, root)
    for folder in ('docs', 'figures'):
        shutil.copytree(ROOT / folder, root / folder)
    return root


def test_all_that_is_broken_is_named(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    for file, added in (
        ('docs/data.md', '[a](nowhere.md)'),
        ('docs/data.md', '[a](losses.md#nowhere)'),
        ('README.md', '[a](docs/nowhere_else.md)'),
        ('README.md', '![a](figures/nowhere.png)'),
        ('docs/orphan.md', '# Orphan'),
    ):
        with (copy / file).open('a', encoding='utf-8') as page:
            page.write(f'\n{added}\n')
    with pytest.raises(Abort):
        make(copy, copy / 'site')
    for message in (
        "'nowhere.md', but the target is not found",
        "does not contain an anchor '#nowhere'",
        "'nowhere_else.md', but the target is not found",
        "'figures/nowhere.png', but the target is not",
        'not included in the "nav"',
    ):
        assert message in caplog.text


def test_a_formula_that_cannot_be_drawn_is_an_error(
    copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (copy / 'docs' / 'data.md').open('a', encoding='utf-8') as page:
        page.write('\n$\\nosuch{a}$\n')
    with pytest.raises(Abort):
        make(copy, copy / 'site')
    assert 'nosuch' in caplog.text


def test_a_page_asks_nothing_of_the_network(site: Path) -> None:
    pages = list(site.rglob('*.html'))
    assert len(pages) > 10
    for page in pages:
        text = page.read_text('utf-8')
        loaded = re.findall(r'<(?:script|link|img|iframe|source|object)\b[^>]*>', text)
        assert loaded
        assert [tag for tag in loaded if re.search(r'="(?:https?:)?//', tag)] == []
        # The one thing that the theme's script would fetch from elsewhere.
        assert 'class="mermaid"' not in text
    for sheet in site.rglob('*.css'):
        assert not re.search(r'url\(["\']?(?:https?:)?//|@import', sheet.read_text('utf-8'))


def test_links_are_those_of_the_site(site: Path) -> None:
    start = (site / 'index.html').read_text('utf-8')
    assert 'href="concepts.html"' in start  # docs/concepts.md in README.md
    assert 'href="contributing.html"' in start
    assert 'src="figures/quickstart.png"' in start
    assert (site / 'figures' / 'quickstart.png').is_file()
    assert not list(site.rglob('*.py'))


def test_formulas_are_drawn(site: Path) -> None:
    text = (site / 'losses.html').read_text('utf-8')
    docs = [inspect.getdoc(kind) or '' for kind in reference_page.registered()['kd_loss'].values()]
    assert text.count('<div class="formula"><svg') == sum(doc.count('.. math::') for doc in docs)
    assert 'arithmatex' not in text


@pytest.mark.parametrize('name', REGISTERED)
def test_the_reference_has_every_class(site: Path, name: str) -> None:
    text = (site / 'reference.html').read_text('utf-8')
    [part] = re.findall(rf'<h3 id="{name.lower()}">(.*?)(?=<h[23]|</article>)', text, re.S)
    [member] = [m[name] for m in reference_page.registered().values() if name in m]
    shown = dict(re.findall(r'<tr>\n<td><code>(.*?)</code></td>\n<td>(.*?)</td>', part, re.S))
    for parameter in inspect.signature(member).parameters.values():
        if parameter.name in reference_page.CHANNELS or parameter.kind is parameter.VAR_KEYWORD:
            continue
        cell = shown.pop(str(parameter).split(':')[0].split('=')[0])
        assert len(re.sub(r'<.*?>', '', cell)) > 10
        if parameter.default is parameter.empty:
            assert 'needed' in cell or parameter.kind is parameter.VAR_POSITIONAL
        else:
            assert repr(parameter.default).replace("'", '&#39;') in cell.replace("'", '&#39;')


def test_the_list_of_registered_classes_is_not_empty() -> None:
    assert {'CGDLoss', 'LinearWarmup', 'ConvConnector', 'NonFiniteHook'} <= set(REGISTERED)


def test_a_missing_description_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class SilentLoss(nn.Module):
        """Says nothing of its arguments.

        Args:
            told: This one.
        """

        def __init__(self, told: int, untold: int = 1, unsaid: int = 2) -> None:
            super().__init__()

    SilentLoss.__module__ = 'mmseg_kd.losses.silent'
    monkeypatch.setitem(KD_LOSSES.module_dict, 'SilentLoss', SilentLoss)
    with pytest.raises(reference_page.MissingDescription) as caught:
        reference_page.tables()
    assert str(caught.value) == 'no description of: SilentLoss.untold, SilentLoss.unsaid'


def test_a_loss_that_does_not_say_what_it_is_for_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class SilentLoss(nn.Module):
        """Says little.

        Taps: anything.

        Reference: none.
        """

    SilentLoss.__module__ = 'mmseg_kd.losses.silent'
    monkeypatch.setitem(KD_LOSSES.module_dict, 'SilentLoss', SilentLoss)
    with pytest.raises(losses_page.MissingParagraph) as caught:
        losses_page.tables()
    assert str(caught.value).endswith('SilentLoss: .. math::, SilentLoss: Choose it ')


def test_a_loss_is_shown_with_its_costs_and_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cost = dict(loss='CDLoss', seconds=3.0, mib=5.0, kl_seconds=2.0, kl_mib=10.0, state_mib=0.0)
    found = dict(device='A GPU', threads=1, torch='2', costs=[dict(cost, maps='scores')])
    (tmp_path / 'losses_gpu.json').write_text(json.dumps({'every loss': found}), 'utf-8')
    for name, method, mean in zip(
        losses_page.RESULTS, ('CDLoss', 'AttentionValueLoss'), (57.1, 38.2), strict=True
    ):
        rows = [
            dict(method='alone', mean=50.0, gain=None),
            dict(method=method, mean=mean, gain=dict(mean=mean - 50)),
        ]
        results = tmp_path / name
        results.parent.mkdir(exist_ok=True)
        results.write_text(json.dumps(dict(methods=rows)), 'utf-8')
    monkeypatch.setattr(losses_page, 'DOCS', tmp_path)
    lines = losses_page.tables().splitlines()
    assert lines[0] == '| loss | from | scores, GPU | features, GPU | state | mIoU |'
    shown = '| [`CDLoss`](#cdloss) | Shu et al., ICCV 2021 | 1.5, 0.5 | — | — | 57.10 (+7.10) |'
    assert shown in lines
    assert any('AttentionValueLoss' in line and '38.20 (-11.80)' in line for line in lines)
    assert '| [`KLLoss`](#klloss) | Hinton et al., 2015 | — | — | — | — |' in lines
    assert 'GPU: A GPU, 1 threads, torch 2.' in lines


def test_descriptions_come_from_docstrings() -> None:
    doc = """A thing.

    Args:
        one, two: Both of
            these.
        three (int, optional): The host's way: with a colon.
        *args, **kwargs: The rest.

    Raises:
        ValueError: Never.
    """
    assert reference_page.descriptions(doc) == {
        'one': 'Both of these.',
        'two': 'Both of these.',
        'three': "The host's way: with a colon.",
        'args': 'The rest.',
        'kwargs': 'The rest.',
    }


def test_what_a_base_class_says_stands_where_a_docstring_refers_to_it() -> None:
    tables = reference_page.tables()
    assert 'As in `LogitLoss`' not in tables
    kinds = set(KD_LOSSES.module_dict.values())
    sayings = tables.count('Pixels with this label take no part.')
    assert sayings == sum(issubclass(kind, LogitLoss) for kind in kinds) > 5
    assert "| `resolution` | `Literal['label', 'student', 'teacher'] = 'label'`<br>" in tables


def test_defaults_of_fields_are_those_of_the_parsers() -> None:
    problems = Problems()
    layers = dict(student_layer='a', teacher_layer='a')
    terms = parse_terms([dict(**layers, loss=dict(type='KLLoss'))], ['teacher'], problems)
    [term] = terms.specs
    problems.raise_if_any()
    assert (term.weight, term.connector) == (TermFields.weight, TermFields.connector)
    network = parse_network(dict(type='EncoderDecoder'), 'student')
    assert (network.checkpoint, network.strict) == (NetworkFields.checkpoint, NetworkFields.strict)


def sizes(formula: str) -> tuple[float, float]:
    width, height = re.findall(r'(?:width|height):([\d.]+)em', svg(formula, is_block=True))
    return float(width), float(height)


def test_a_formula_has_the_size_of_what_it_shows() -> None:
    assert sizes('aa')[0] > 1.5 * sizes('a')[0]
    assert sizes(r'\frac{a}{b}')[1] > 2 * sizes('a')[1]
    inline = float(re.findall(r'height:([\d.]+)em', svg(r'\frac{a}{b}'))[0])
    assert inline < sizes(r'\frac{a}{b}')[1]
    assert 'aria-label="a &lt; b"' in svg('a  <\nb')
    with pytest.raises(ValueError, match='nosuch'):
        svg(r'\nosuch{a}')


def cells(*outputs: dict[str, Any]) -> str:
    code = dict(cell_type='code', source=['1 +', ' 1\n'], outputs=list(outputs))
    words = dict(cell_type='markdown', source=['# Title\n', 'Words.'])
    return json.dumps(dict(cells=[words, code, dict(cell_type='code', source=[], outputs=[])]))


def outputs() -> Iterator[Any]:
    yield dict(output_type='stream', text=['\x1b[1mtwo\x1b[0m\n']), '```text\ntwo\n```'
    data = {'image/png': 'aGk=\n', 'text/plain': ['<Figure>']}
    yield dict(output_type='display_data', data=data), '![<Figure>](data:image/png;base64,aGk=)'
    data = {'text/html': ['<table>\n\n', '</table>'], 'text/plain': ['a table']}
    yield dict(output_type='execute_result', data=data), '<div><table>\n</table></div>'
    yield dict(output_type='execute_result', data={'text/plain': ['2']}), '```text\n2\n```'


@pytest.mark.parametrize(('output', 'shown'), outputs())
def test_a_notebook_is_a_page(output: dict[str, Any], shown: str) -> None:
    expected = f'# Title\nWords.\n\n```python\n1 + 1\n```\n\n{shown}\n'
    assert notebook_page.page(cells(output)) == expected


def test_a_notebook_that_failed_is_no_page() -> None:
    failed = dict(output_type='error', ename='KeyError', evalue="'a'", traceback=[])
    with pytest.raises(ValueError, match="KeyError: 'a'"):
        notebook_page.page(cells(failed))


def test_a_notebook_is_found_and_linked(copy: Path) -> None:
    data = {'image/png': 'aGk=', 'text/plain': ['<Figure>']}
    shown = dict(output_type='display_data', data=data)
    (copy / 'docs' / 'sample.ipynb').write_text(cells(shown), encoding='utf-8')
    with (copy / 'README.md').open('a', encoding='utf-8') as page:
        page.write('\n[sample](docs/sample.ipynb)\n')
    config = (copy / 'mkdocs.yml').read_text('utf-8')
    config = config.replace('\nnav:\n', '\nnav:\n  - Sample: sample.md\n')
    (copy / 'mkdocs.yml').write_text(config, encoding='utf-8')
    make(copy, copy / 'site')
    assert '<a href="sample.html">sample</a>' in (copy / 'site' / 'index.html').read_text('utf-8')
    page_text = (copy / 'site' / 'sample.html').read_text('utf-8')
    assert 'src="data:image/png;base64,aGk="' in page_text
    assert not (copy / 'site' / 'sample.ipynb').exists()


def test_pages_read_from_disk_on_a_phone(site: Path, browser: Any) -> None:
    page = browser.new_page(viewport=dict(width=360, height=740))
    faults: list[str] = []
    page.on('console', lambda one: faults.append(one.text) if one.type == 'error' else None)
    page.on('pageerror', lambda error: faults.append(str(error)))
    page.on('request', lambda one: faults.append(one.url) if one.url.startswith('http') else None)
    pages = [path for path in sorted(site.glob('*.html')) if path.stem != '404']
    for path in pages:
        page.goto(path.as_uri())
        assert page.evaluate('document.documentElement.scrollWidth') <= 360, path.name
    page.keyboard.press('f')
    page.keyboard.type('group_size')
    page.locator('.md-search-result__link').first.wait_for(timeout=20_000)
    results = page.locator('.md-search-result__link').evaluate_all('them => them.map(a => a.href)')
    assert any('/reference.html' in link for link in results)
    assert faults == []
