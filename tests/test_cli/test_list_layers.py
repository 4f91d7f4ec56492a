"""The list of layers that can be tapped."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from builders import (
    build,
    fcn_head,
    mit,
    resnet,
    save_weights,
    term,
    train,
    wrapper_config,
    write_config,
)

from mmseg_kd.cli.list_layers import main
from mmseg_kd.config.load import load_config
from mmseg_kd.config.network_spec import teacher_of
from mmseg_kd.errors import ConfigError
from mmseg_kd.networks.layers import list_layers

STUDENT = resnet(4, auxiliary_head=fcn_head(4, 0))


@pytest.fixture
def config(tmp_path: Path) -> str:
    """A distillation from a wider ResNet; neither its data nor the teacher's file exist."""
    model = wrapper_config(STUDENT, resnet(8), str(tmp_path / 'absent.pth'), term())
    return str(write_config(tmp_path, model, tmp_path / 'absent'))


def rows(out: str) -> dict[str, dict[str, Any]]:
    """The lines of a table, by layer."""
    line = re.compile(r'^([= ]) (\S+) +(\w+) +([\dx]+) +([\d,]+)$', re.MULTILINE)
    return {
        name: dict(mark=mark, kind=kind, shape=shape, parameters=int(number.replace(',', '')))
        for mark, name, kind, shape, number in line.findall(out)
    }


def test_rows_have_name_class_shape_and_parameters(
    config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([config, '--side', 'student']) == 0
    out = capsys.readouterr().out
    table = rows(out)
    assert f'student: {len(table)} layers; output shapes for one image of 128x128' in out
    conv = dict(mark='=', kind='Conv2d', shape='1x5x16x16', parameters=45)
    assert table['decode_head.conv_seg'] == conv
    stage = table['backbone.layer1']
    assert (stage['kind'], stage['shape']) == ('ResLayer', '1x4x32x32')
    assert table['auxiliary_head.conv_seg']['shape'] == '1x5x32x32'


def test_layers_that_cannot_be_tapped_are_left_out(
    config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main([config, '--side', 'student'])
    table = rows(capsys.readouterr().out)
    assert not {'backbone', 'decode_head', 'auxiliary_head', 'decode_head.loss_decode'} & set(table)


def test_equal_shapes_are_marked(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([config])
    out = capsys.readouterr().out
    assert out.index('teacher: ') < out.index('student: ')
    teacher, student = (rows(part) for part in out.split('student: '))
    for layer in ('decode_head.conv_seg', 'decode_head.convs.0'):
        assert teacher[layer]['mark'] == student[layer]['mark'] == '='
    assert teacher['backbone.layer2']['mark'] == ' '
    # As wide as the teacher's first stage, and elsewhere in the network.
    assert teacher['backbone.layer1']['shape'] != student['backbone.layer2']['shape']
    shapes = {row['shape'] for row in teacher.values()}
    assert all((row['mark'] == '=') == (row['shape'] in shapes) for row in student.values())


def test_side_picks_one_network(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([config, '--side', 'teacher'])
    out = capsys.readouterr().out
    assert 'teacher: ' in out
    assert 'student: ' not in out
    assert rows(out)['backbone.layer1']['shape'] == '1x8x32x32'


def test_filter_picks_names(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([config, '--side', 'student', '--filter', '*conv_seg'])
    assert set(rows(capsys.readouterr().out)) == {
        'decode_head.conv_seg',
        'auxiliary_head.conv_seg',
    }


def test_a_filter_without_a_match_is_an_error(
    config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([config, '--filter', 'encoder*']) == 1
    assert "no layer matches 'encoder*'; nearest: " in capsys.readouterr().err


def test_a_network_on_its_own_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(write_config(tmp_path, mit(8), tmp_path))
    assert main([config]) == 0
    out = capsys.readouterr().out
    table = rows(out)
    assert 'model: ' in out
    assert table['backbone.layers.0.1.0']['shape'] == '1x1024x8'
    assert {row['mark'] for row in table.values()} == {' '}
    assert main([config, '--side', 'teacher']) == 1
    assert capsys.readouterr().err == 'error: the config has no teacher; it has: model.\n'


def test_names_of_the_list_can_be_tapped(tmp_path: Path) -> None:
    names = [layer.name for layer in list_layers(build(STUDENT))]
    assert len(names) > 20
    checkpoint = save_weights(STUDENT, tmp_path / 'teacher.pth')
    terms = (term(name, name) for name in names)
    log = train(build(wrapper_config(STUDENT, STUDENT, checkpoint, *terms)), 1)[0]
    assert sum(key.startswith('kd.') for key in log) == len(names)


def test_several_teachers_and_parts_of_an_attention(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = wrapper_config(mit(8), {}, '', term(teacher='b'))
    model['teacher'] = [
        {**network, 'name': name, 'checkpoint': 'absent.pth'}
        for name, network in dict(a=resnet(4), b=mit(16)).items()
    ]
    config = str(write_config(tmp_path, model, tmp_path / 'absent'))
    assert main([config, '--side', 'teacher']) == 0
    first, second = capsys.readouterr().out.split("teacher 'b': ")
    assert first.startswith("teacher 'a': ")
    table = rows(second)
    block = 'backbone.layers.1.1.0.attn.attn'
    assert table[f'{block}.value']['shape'] == '1x64x32'
    assert table[f'{block}.weights']['shape'] == '1x256x64'
    assert table[f'{block}.weights']['parameters'] == 0
    assert f'{block}.query' in table
    # The attention as a whole puts out a tuple.
    assert block not in table


def test_modules_beside_the_user_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `custom_imports` of a loss that the docs tell to write, in the working directory."""
    monkeypatch.setattr('sys.path', [p for p in sys.path if p not in ('', str(tmp_path))])
    (tmp_path / 'module_of_the_user.py').write_text('print("found")', encoding='utf-8')
    path = write_config(tmp_path, resnet(4), tmp_path / 'absent')
    path.write_text(
        path.read_text(encoding='utf-8')
        + "custom_imports = dict(imports=['mmseg_kd', 'module_of_the_user'])\n",
        encoding='utf-8',
    )
    monkeypatch.chdir(tmp_path)
    assert main([str(path)]) == 0
    assert 'found' in capsys.readouterr().out


def test_a_list_of_one_teacher_is_found_by_its_name(tmp_path: Path) -> None:
    model = wrapper_config(resnet(4), {}, '', term())
    model['teacher'] = [{**resnet(8), 'name': 'b3', 'checkpoint': 'a.pth'}]
    cfg = load_config(str(write_config(tmp_path, model, tmp_path / 'absent')), None)
    assert teacher_of(cfg, 'b3').checkpoint == teacher_of(cfg, None).checkpoint == 'a.pth'
    with pytest.raises(ConfigError, match=r'--teacher: got .b4., expected one of b3'):
        teacher_of(cfg, 'b4')
