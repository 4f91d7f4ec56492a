"""What the README and the pages of docs/ show works."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from mmseg_kd.errors import Problems
from mmseg_kd.network import parse_teachers
from mmseg_kd.registry import KD_LOSSES, build
from mmseg_kd.term_spec import parse_terms

ROOT = Path(__file__).resolve().parents[1]
PAGES = {path.name: path for path in (ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md')))}


def text(page: str) -> str:
    return PAGES[page].read_text(encoding='utf-8')


def blocks(page: str, containing: str) -> list[str]:
    """The Python code on a page that has some words in it."""
    return [c for c in re.findall(r'```python\n(.*?)```', text(page), re.S) if containing in c]


@pytest.mark.parametrize(
    ('page', 'name', 'expected'),
    [('README.md', 'FeatureLoss', 9.0), ('customize_distillation.md', 'CosineLoss', 1.0)],
)
def test_a_loss_to_add_is_a_loss(page: str, name: str, expected: float) -> None:
    [code] = blocks(page, f'class {name}')
    names: dict[str, Any] = {'__name__': 'my_losses'}
    try:
        exec(code, names)
        loss = build(KD_LOSSES, dict(type=name), 'loss')
        student = torch.zeros(1, 2, 2, 2, requires_grad=True)
        value = loss(student, torch.full((1, 2, 4, 4), 3.0))
        assert value.item() == pytest.approx(expected)
        value.backward()
        assert student.grad is not None
    finally:
        KD_LOSSES.module_dict.pop(name, None)


@pytest.mark.parametrize('page', PAGES)
def test_terms_it_shows_are_sound(page: str) -> None:
    found = blocks(page, 'loss=dict(')
    assert len(found) >= {'README.md': 1, 'customize_distillation.md': 4}.get(page, 0)
    for code in found:
        names: dict[str, Any] = {}
        exec(code, names)
        model = names['model']
        problems = Problems()
        teachers, _ = parse_teachers(
            model.get('teacher', dict(type='A')),
            # The configs that it names are made up.
            Problems(),
        )
        specs = parse_terms(model['distillation'], teachers, problems)
        problems.raise_if_any()
        assert specs


@pytest.mark.parametrize('page', PAGES)
def test_losses_it_names_are_there(page: str) -> None:
    own = set(re.findall(r'class (\w+Loss)\b', text(page)))
    foreign = {'PDLoss', 'CGDLossWS', 'KLDLoss'}  # SegDistill's
    named = set(re.findall(r'\b[A-Z]\w+Loss\b', text(page)))
    assert {n for n in named - own - foreign if n not in KD_LOSSES} == set()


@pytest.mark.parametrize('page', PAGES)
def test_files_it_names_are_there(page: str) -> None:
    named = re.findall(
        r'\b(?:tools|configs|distillation_configs|figures|benchmarks|docs)/[\w./-]+', text(page)
    )
    missing = {name for name in named if not (ROOT / name.rstrip('./')).exists()}
    # Paths inside the config that the README quotes are relative to that config.
    assert {name for name in missing if not name.startswith('configs/_base_')} == set()


@pytest.mark.parametrize('page', PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in re.findall(r'\]\(([^)]+)\)', text(page)):
        if '://' in link:
            continue
        file, _, anchor = link.partition('#')
        target = PAGES[page].parent / file if file else PAGES[page]
        assert target.exists(), link
        if anchor:
            titles = re.findall(r'^#+ (.+)$', target.read_text(encoding='utf-8'), re.M)
            slugs = {re.sub(r'[^\w -]', '', t).strip().lower().replace(' ', '-') for t in titles}
            assert anchor in slugs, link


@pytest.mark.parametrize('page', PAGES)
def test_no_placeholder_is_left(page: str) -> None:
    assert '@@' not in text(page)
