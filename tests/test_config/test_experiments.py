from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mmseg_kd.config.experiments import experiments_of, read_config, run_name, split_name
from mmseg_kd.config.load import load_config
from mmseg_kd.errors import ConfigError

CONFIG = """
model = dict(type='A', terms=[dict(weight=1.0, loss='x')])
experiments = {
    f'weight{w}': dict(options={'model.terms.0.weight': w}, published=w * 10.0) for w in (2, 3)
}
experiments['none'] = dict(options={'model.terms': []})
experiments['as-it-is'] = dict()
"""


@pytest.fixture
def family(tmp_path: Path) -> str:
    path = tmp_path / 'family.py'
    path.write_text(CONFIG, encoding='utf-8')
    return str(path)


def test_an_experiment_is_the_config_with_its_options(family: str) -> None:
    config = read_config(f'{family}::weight3')
    assert config.model == dict(type='A', terms=[dict(weight=3, loss='x')])
    assert 'experiments' not in config
    assert read_config(f'{family}::none').model.terms == []
    assert read_config(f'{family}::as-it-is').model.terms[0].weight == 1.0


def test_options_of_the_command_line_come_last(family: str) -> None:
    config = load_config(f'{family}::weight3', {'model.terms.0.weight': 7})
    assert config.model.terms[0].weight == 7


def test_all_experiments(family: str) -> None:
    found = {e.name: (e.config.model, e.published) for e in experiments_of(family)}
    assert list(found) == [f'{family}::{n}' for n in ('weight2', 'weight3', 'none', 'as-it-is')]
    assert found[f'{family}::weight2'][0].terms[0].weight == 2
    assert found[f'{family}::as-it-is'][0].terms[0].weight == 1.0
    assert [published for _, published in found.values()] == [20.0, 30.0, None, None]


def test_a_config_without_experiments_is_one(tmp_path: Path) -> None:
    path = tmp_path / 'plain.py'
    path.write_text("model = dict(type='A')", encoding='utf-8')
    [one] = experiments_of(str(path))
    assert (one.name, one.config.model.type, one.published) == (str(path), 'A', None)
    with pytest.raises(ConfigError, match="has no experiment 'x'; there is none"):
        read_config(f'{path}::x')


def test_a_family_on_its_own_is_refused(family: str) -> None:
    with pytest.raises(ConfigError, match=r'has 4 experiments; name one.*family\.py::weight2'):
        read_config(family)


def test_an_unknown_experiment_has_the_nearest_names(family: str) -> None:
    with pytest.raises(ConfigError, match=r"no experiment 'weight4'; nearest: weight\d"):
        read_config(f'{family}::weight4')


@pytest.mark.parametrize('wrong', [3, dict(option={}), ['a']])
def test_a_wrong_experiment_is_named(tmp_path: Path, wrong: Any) -> None:
    path = tmp_path / 'family.py'
    path.write_text(f'experiments = dict(a={wrong!r})', encoding='utf-8')
    with pytest.raises(ConfigError, match=r'family\.py::a: expected dict\(options='):
        read_config(f'{path}::a')


def test_experiments_that_are_no_dict(tmp_path: Path) -> None:
    path = tmp_path / 'family.py'
    path.write_text('experiments = [1]', encoding='utf-8')
    with pytest.raises(ConfigError, match='expected a dict by name'):
        read_config(str(path))


@pytest.mark.parametrize(
    ('name', 'parts', 'folder'),
    [
        ('a/b.py', ('a/b.py', None), 'b'),
        ('a/b.py::c-d', ('a/b.py', 'c-d'), 'b_c-d'),
        ('mmseg::pspnet/p.py', ('mmseg::pspnet/p.py', None), 'p'),
        ('mmseg::pspnet/p.py::x', ('mmseg::pspnet/p.py', 'x'), 'p_x'),
    ],
)
def test_names(name: str, parts: tuple[str, str | None], folder: str) -> None:
    assert split_name(name) == parts
    assert run_name(name) == folder
