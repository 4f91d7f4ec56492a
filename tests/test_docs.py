"""What the README and the pages of docs/ show works."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from mmseg.registry import HOOKS, VISBACKENDS

import mmseg_kd.losses
from mmseg_kd.config.experiments import experiments_of
from mmseg_kd.config.network_spec import parse_teachers
from mmseg_kd.config.term_spec import parse_terms
from mmseg_kd.errors import IterationError, Problems
from mmseg_kd.registry import KD_LOSSES, build, look_up

ROOT = Path(__file__).resolve().parents[1]
PAGES = {path.name: path for path in (*ROOT.glob('*.md'), *sorted((ROOT / 'docs').glob('*.md')))}


def text(page: str) -> str:
    return PAGES[page].read_text(encoding='utf-8')


def blocks(page: str, containing: str) -> list[str]:
    """The Python code on a page that has some words in it."""
    return [c for c in re.findall(r'```python\n(.*?)```', text(page), re.S) if containing in c]


def test_a_loss_to_add_is_a_loss() -> None:
    name = 'CosineLoss'
    [code] = blocks('customize_distillation.md', f'class {name}')
    names: dict[str, Any] = {'__name__': 'my_losses'}
    try:
        exec(code, names)
        loss = build(KD_LOSSES, dict(type=name), 'loss')
        student = torch.zeros(1, 2, 2, 2, requires_grad=True)
        value = loss(student, torch.full((1, 2, 4, 4), 3.0))
        assert value.item() == pytest.approx(1.0)
        value.backward()
        assert student.grad is not None
    finally:
        KD_LOSSES.module_dict.pop(name, None)


def test_a_loss_between_maps_to_add_is_a_loss() -> None:
    name = 'ReverseKLLoss'
    [code] = blocks('customize_distillation.md', f'class {name}')
    try:
        exec(code, {'__name__': 'my_losses'})
        options = dict(tau=2.0, ignore_index=255, resolution='student')
        loss = build(KD_LOSSES, dict(type=name, **options), 'loss')
        student = torch.tensor([[0.0, 5.0], [0.0, -5.0]]).view(1, 2, 1, 2).requires_grad_()
        teacher = torch.tensor([2 * math.log(3), 0.0]).view(1, 2, 1, 1).requires_grad_()
        value = loss(student, teacher, torch.tensor([[[0, 255]]]))
        expected = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
        assert value.item() == pytest.approx(expected)
        value.backward()
        assert student.grad is not None
        assert teacher.grad is None
    finally:
        KD_LOSSES.module_dict.pop(name, None)


def test_a_loop_of_ones_own_trains() -> None:
    [code] = blocks('own_loop.md', 'for images, labels in loader')
    names: dict[str, Any] = {}
    exec(code, names)
    assert names['iteration'] == 2
    assert names['loss'].isfinite() and names['kd'] > 0
    for trained in (names['student'].classifier.low_classifier, names['connector']):
        assert trained.weight.grad.abs().sum() > 0
    teacher = names['network']
    assert not teacher.training and all(p.grad is None for p in teacher.parameters())
    # What the page says of one that nobody counts for.
    loss = names['CGDLoss'](group_size=7, resolution='student', shuffle_interval=10)
    maps = torch.zeros(1, 7, 4, 4)
    with pytest.raises(IterationError):
        loss(maps, maps)


@pytest.mark.parametrize('page', PAGES)
def test_terms_it_shows_are_sound(page: str) -> None:
    found = blocks(page, 'loss=dict(')
    assert len(found) >= {'README.md': 1, 'customize_distillation.md': 4, 'recipes.md': 2}.get(
        page, 0
    )
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
        specs = parse_terms(model['distillation'], teachers, problems).specs
        problems.raise_if_any()
        assert specs


@pytest.mark.parametrize('page', PAGES)
def test_losses_it_names_are_there(page: str) -> None:
    own = {*re.findall(r'class (\w+Loss)\b', text(page)), *mmseg_kd.losses.__all__}
    foreign = {'PDLoss', 'CGDLossWS', 'KLDLoss', 'FlattenLoss'}  # SegDistill's
    foreign |= {'ShiftChannelLoss', 'ShuffleChannelLoss', 'MTLoss', 'MTRandomLoss'}
    # mmrazor's and torchdistill's
    foreign |= {'L1Loss', 'L2Loss', 'KDLoss', 'LogitStdKDLoss', 'WeightedSumLoss'}
    named = set(re.findall(r'\b[A-Z]\w+Loss\b', text(page)))
    assert {n for n in named - own - foreign if n not in KD_LOSSES} == set()


@pytest.mark.parametrize('page', PAGES)
def test_files_it_names_are_there(page: str) -> None:
    named = re.findall(
        r'\b(?:tools|configs|distillation_configs|figures|benchmarks|docs)/[\w./-]+', text(page)
    )
    places = (ROOT, PAGES[page].parent)
    missing = {n for n in named if not any((at / n.rstrip('./')).exists() for at in places)}
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


def test_published_figures_are_those_of_the_configs() -> None:
    [table] = re.findall(r'^\| method \|.*?\n\n', text('results.md'), re.S | re.M)
    head, _, *rows = [
        [cell.strip() for cell in row.strip('|').split('|')] for row in table.strip().splitlines()
    ]
    files = dict(zip(('pspnet-r50', 'segformer-b0', 'swin-t'), head[2:], strict=True))
    methods = ['baseline', 'kl', 'at', 'ifvd', 'cd', 'cgd', 'cgd-ws']
    shown = {
        (file, method): float(row[2 + column]) if row[2 + column] else None
        for column, file in enumerate(files)
        for method, row in zip(methods, rows, strict=True)
    }
    in_configs = {}
    for file in files:
        for one in experiments_of(f'distillation_configs/ade20k/segformer-b3_{file}.py'):
            in_configs[file, one.name.rpartition('::')[2]] = one.published
    assert shown == in_configs


def test_hooks_it_shows_can_be_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the page on progress, with the run that one of them reads."""
    run = tmp_path / 'work_dirs' / 'camvid_baseline' / '20260101_000000' / 'vis_data'
    run.mkdir(parents=True)
    (run / 'scalars.json').write_text('{"mIoU": 54.68, "step": 1200}\n', encoding='utf-8')
    monkeypatch.chdir(tmp_path)
    built = []
    for code in blocks('progress.md', 'custom_hooks'):
        names: dict[str, Any] = {}
        exec(code, names)
        built += [type(HOOKS.build(hook)).__name__ for hook in names['custom_hooks']]
    assert built == [
        'ProgressHook',
        'ValidationPicturesHook',
        'ReferenceHook',
        'GradientConflictHook',
    ]


def test_backends_it_shows_are_the_hosts() -> None:
    [code] = blocks('progress.md', 'vis_backends')
    names: dict[str, Any] = {}
    exec(code, names)
    problems = Problems()
    for index, backend in enumerate(names['visualizer']['vis_backends']):
        with problems:
            look_up(VISBACKENDS, backend, f'vis_backends[{index}]', is_complete=False)
    problems.raise_if_any()


def test_badges_say_what_is_so() -> None:
    """The versions of Python that the package names, CI runs and the badge shows."""
    setup = (ROOT / 'setup.py').read_text(encoding='utf-8')
    versions = re.findall(r'Python :: (3\.\d+)', setup)
    first, last = versions[0], versions[-1]
    assert f"python_requires='>={first}'" in setup
    workflow = (ROOT / '.github' / 'workflows' / 'ci.yml').read_text(encoding='utf-8')
    assert f"python: ['{first}', '{last}']" in workflow
    badge = (ROOT / 'figures' / 'python.svg').read_text(encoding='utf-8')
    assert re.findall(r'3\.\d+ to 3\.\d+', badge) == [f'{first} to {last}'] * 2
    [licence] = re.findall(r"license='(.+?)'", setup)
    badge = (ROOT / 'figures' / 'licence.svg').read_text(encoding='utf-8')
    assert badge.count(licence) == 2
