"""The table of experiments."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders import ROOT

from mmseg_kd.cli.list_experiments import main

FOLDER = 'distillation_configs/ade20k'


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_the_published_experiments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([FOLDER]) == 0
    lines = [' '.join(line.split()) for line in capsys.readouterr().out.splitlines()]
    # The table of methods, group sizes, network sizes, weights and temperatures; one example.
    assert f'{3 * 7 + 6 + 10 + 3 * 4 + 1} experiments; published: mIoU in percent.' in lines
    at = lines.index(f'{FOLDER}/segformer-b3_segformer-b0.py::')
    assert lines[at + 2] == 'baseline segformer_mit-b3 segformer_mit-b0 - 38.00'
    assert lines[at + 8] == (
        'cgd-ws segformer_mit-b3 segformer_mit-b0 3 * CGDLoss(group_size=10, tau=2.0) with '
        'LinearWarmup and LinearDecay 41.27'
    )
    at = lines.index(f'{FOLDER}/network_size.py::')
    assert lines[at + 11].startswith('b4-b3 segformer_mit-b4 segformer_mit-b3 3 * CGDLoss')


def test_files_and_filters(capsys: pytest.CaptureFixture[str]) -> None:
    files = [f'{FOLDER}/group_size.py', f'{FOLDER}/weight_tau.py']
    assert main([*files, '--filter', '*group3*']) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines() if '*' in line] == ['group3', 'group30']
    assert f'mmseg-kd train {FOLDER}/group_size.py::group3\n' in out


def test_several_teachers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['distillation_configs', '--filter', '*two-teachers*']) == 0
    out = capsys.readouterr().out
    assert 'efficientnet-lite2 + mobilenetv2' in out
    assert 'random of 2 teachers' in out


def test_networks_written_out_and_other_configs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = "dict(backbone=dict(type='ResNet'), decode_head=dict(type='FCNHead'))"
    (tmp_path / 'a.py').write_text(
        f"model = dict(type='DistillationWrapper', student={network})", encoding='utf-8'
    )
    (tmp_path / 'b.py').write_text(f'model = {network}', encoding='utf-8')
    assert main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert 'ResNet_FCNHead' in out
    assert 'b.py' not in out


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['absent'], "no config file or folder 'absent'"),
        ([FOLDER, '--filter', 'nothing'], "matches 'nothing'"),
    ],
)
def test_nothing_found(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(args) == 1
    assert message in capsys.readouterr().err


def test_a_broken_config_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / 'broken.py').write_text('model = undefined', encoding='utf-8')
    assert main([str(tmp_path)]) == 1
    assert 'broken.py, line 1: NameError' in capsys.readouterr().err
