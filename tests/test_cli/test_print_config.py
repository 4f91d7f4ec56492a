"""A config with its bases and options as one file."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders import ROOT, resnet, write_config

from mmseg_kd.cli.print_config import main
from mmseg_kd.config.load import load_config
from mmseg_kd.config.network_spec import networks_of

DISTILLATIONS = (
    'distillation_configs/example_config.py',
    'distillation_configs/camvid/camvid-240x320.py::mobilenetv2_two-teachers',
)
CONFIGS = (
    *DISTILLATIONS,
    'distillation_configs/ade20k/group_size.py::group30',
    'configs/toy_scenes/resnet18-quarter_fpn_toy-128x128.py',
)


@pytest.fixture(autouse=True)
def in_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def printed(capsys: pytest.CaptureFixture[str], path: Path, *args: str) -> str:
    """What the command prints, kept in a file; returns its name."""
    assert main([*args]) == 0
    path.write_text(capsys.readouterr().out, encoding='utf-8')
    return str(path)


@pytest.mark.parametrize('config', CONFIGS)
def test_what_is_printed_loads_to_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], config: str
) -> None:
    options = {'train_dataloader.batch_size': 3, 'work_dir': 'elsewhere'}
    words = [f'{key}={value}' for key, value in options.items()]
    path = printed(capsys, tmp_path / 'whole.py', config, '--cfg-options', *words)
    assert load_config(path, None).to_dict() == load_config(config, options).to_dict()


@pytest.mark.parametrize('config', DISTILLATIONS)
def test_resolved_networks_are_those_of_the_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], config: str
) -> None:
    path = printed(capsys, tmp_path / 'whole.py', config, '--resolve')
    text = Path(path).read_text(encoding='utf-8')
    assert 'config=' not in text
    assert 'cfg_options' not in text
    assert networks_of(load_config(path, None)) == networks_of(load_config(config, None))


def test_out_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / 'whole.py'
    assert main([CONFIGS[0], '--out', str(out)]) == 0
    assert capsys.readouterr().out == f'{CONFIGS[0]} -> {out}\n'
    assert load_config(str(out), None).to_dict() == load_config(CONFIGS[0], None).to_dict()


def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*args: str) -> str:
        assert main([*args]) == 1
        return capsys.readouterr().err

    assert 'this config names no networks' in refused(CONFIGS[-1], '--resolve')
    assert 'cannot be written' in refused(CONFIGS[0], '--out', str(tmp_path / 'absent' / 'a.py'))
    options = ('--cfg-options', 'model.student.config=absent.py', 'model.teacher.tau=3')
    wrong = refused(CONFIGS[0], '--resolve', *options)
    assert "there is no config file 'absent.py'" in wrong
    assert "teacher: unknown key 'tau'" in wrong
    code = write_config(tmp_path, resnet(), tmp_path)
    code.write_text(code.read_text(encoding='utf-8') + 'size = slice(3)\n', encoding='utf-8')
    assert 'expected dicts, lists' in refused(str(code))
