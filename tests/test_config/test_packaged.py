"""Configs that are called by the package that they come with."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders import ROOT
from mmengine.config import Config

import mmseg_kd.register  # noqa: F401  the host finds such a _base_
from mmseg_kd.config import packaged
from mmseg_kd.config.experiments import find_configs, read_config, run_name
from mmseg_kd.config.file import config_path, read_config_file
from mmseg_kd.config.load import load_config
from mmseg_kd.config.network_spec import networks_of, parse_network
from mmseg_kd.errors import ConfigError

PAIR = 'distillation_configs/toy_scenes/resnet18_mobilenetv2-half_cgd_toy-128x128.py'
STUDENT = 'configs/toy_scenes/mobilenetv2-half_segformer_toy-128x128.py'
SHIPPED = [
    path.relative_to(ROOT).as_posix()
    for folder in ('configs', 'distillation_configs')
    for path in sorted((ROOT / folder).rglob('*.py'))
    if '_base_' not in path.parts
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without configs is the current one."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize('name', SHIPPED)
def test_a_shipped_config_is_complete_in_any_folder(name: str) -> None:
    file, experiment = f'mmseg_kd::{name}', None
    assert config_path(file) == ROOT / name
    config = read_config_file(file)
    if 'experiments' in config:
        experiment = next(iter(config.experiments))
        config = read_config(f'{file}::{experiment}')
    assert all('type' in spec.model for spec in networks_of(config).values())


def test_a_run_is_called_by_the_file_alone() -> None:
    assert run_name(f'mmseg_kd::{PAIR}') == Path(PAIR).stem
    assert run_name('mmseg_kd::distillation_configs/a.py::b') == 'a_b'


def test_it_can_be_a_base_and_the_config_of_a_network(tmp_path: Path) -> None:
    own = tmp_path / 'own.py'
    # What is taken of a base with its type is built like what stands in the config.
    own.write_text(
        f"_base_ = ['mmseg_kd::{PAIR}']\nwrapper = _base_.optim_wrapper\nwork_dir = 'a'\n",
        encoding='utf-8',
    )
    config = load_config('own.py', None)
    assert '_scope_' not in config.wrapper
    expected = load_config(f'mmseg_kd::{PAIR}', None)
    assert {**expected, 'work_dir': 'a', 'wrapper': expected.optim_wrapper} == dict(config.items())
    assert Config.fromfile(own).model == config.model
    spec = parse_network(
        dict(config=f'mmseg_kd::{STUDENT}', cfg_options={'model.decode_head.num_classes': 7}),
        'student',
    )
    assert spec.model.decode_head.num_classes == 7


def test_a_base_of_a_base_is_looked_at_before_the_host_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / 'configs').mkdir()
    monkeypatch.setattr(packaged, 'shipped_root', lambda: tmp_path)
    own = tmp_path / 'configs' / 'own.py'
    own.write_text("_base_ = 'mmseg_kd::configs/own.py'", encoding='utf-8')
    with pytest.raises(ConfigError, match='_base_ goes in a circle'):
        read_config_file('mmseg_kd::configs/own.py')
    own.write_text("_base_ = 'mmseg_kd::configs/owm.py'", encoding='utf-8')
    with pytest.raises(ConfigError, match=r'own\.py: _base_: .*nearest: configs/own\.py'):
        read_config_file('mmseg_kd::configs/own.py')


@pytest.mark.parametrize(
    'name', ['mmseg_kd::tests/conftest.py', 'mmseg_kd::mmseg_kd/errors.py', 'mmseg_kd::setup.py']
)
def test_what_else_a_checkout_has_is_no_config(name: str) -> None:
    assert (ROOT / name.partition('::')[2]).is_file()
    with pytest.raises(ConfigError, match=r'mmseg_kd \S+ has no config .*; nearest: '):
        config_path(name)


def test_a_misspelt_name_gets_the_nearest() -> None:
    with pytest.raises(ConfigError, match=f'nearest: {PAIR}'):
        config_path(f'mmseg_kd::{PAIR}'.replace('_cgd_', '_cggd_'))
    with pytest.raises(ConfigError, match='there is no config file'):
        config_path('mmseg_kd::configs')


def test_configs_of_a_shipped_folder_have_names_that_can_be_typed() -> None:
    found = list(find_configs(['mmseg_kd::distillation_configs']))
    assert found == [f'mmseg_kd::{n}' for n in SHIPPED if n.startswith('distillation_configs')]
    assert list(find_configs([found[0]])) == found[:1]
    with pytest.raises(ConfigError, match='has no config'):
        list(find_configs(['mmseg_kd::distillation']))


def test_in_a_wheel_they_are_in_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / 'mmseg_kd' / '.mim' / 'configs' / 'a.py'
    config.parent.mkdir(parents=True)
    config.touch()
    monkeypatch.setattr('mmseg_kd.__file__', str(tmp_path / 'mmseg_kd' / '__init__.py'))
    assert config_path('mmseg_kd::configs/a.py') == config
