"""Pictures of networks through the command line."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import (
    ROOT,
    build,
    mit,
    preprocessor,
    resnet,
    save_weights,
    term,
    wrapper_config,
    write_config,
    write_dataset,
)
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image

from mmseg_kd.analysis import activation_figure, comparison, error_map, grid
from mmseg_kd.analysis.activation import TappedNetwork, tap
from mmseg_kd.analysis.grid import Cell
from mmseg_kd.cli.visualize import main
from mmseg_kd.data_checks.preflight import build_dataset

SIZE = (40, 48)
BLOCK = 'backbone.layers.1.1.0.attn.attn.weights'


class Project:
    """A teacher, and two work dirs: a baseline and a distillation with two terms."""

    def __init__(self, folder: Path) -> None:
        init_default_scope('mmseg')
        self.folder = folder
        self.data = write_dataset(folder / 'data', val=4, size=SIZE)
        free = preprocessor(size=None)
        self.student = {**resnet(), 'data_preprocessor': free}
        self.teacher = {**resnet(8), 'data_preprocessor': free}
        self.weights = save_weights(self.teacher, folder / 'teacher.pth')
        self.runs = [
            self._run('baseline', 1),
            self._run('cgd', 2, term(loss='CGDLoss'), term('backbone.layer1', 'backbone.layer2')),
        ]

    def _run(self, name: str, seed: int, *terms: Any) -> str:
        run = self.folder / name
        run.mkdir()
        model = wrapper_config(self.student, self.teacher, self.weights, *terms)
        path = write_config(run, model, self.data)
        # As the runner dumps it, without bases.
        Config.fromfile(path).dump(path)
        save_weights(self.student, run / 'iter_4.pth', seed)
        return str(run)


@pytest.fixture(scope='module')
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp('project'))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / 'figure.png'


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The message of a command that must fail."""
    assert main([*arguments]) == 1
    return capsys.readouterr().err


@pytest.fixture
def columns(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Cell]]:
    """The columns of the figures that are drawn."""
    seen: dict[str, list[Cell]] = {}

    def draw(columns: Any, *arguments: Any, **named: Any) -> Any:
        seen.clear()
        seen.update(columns)
        return grid.draw_grid(columns, *arguments, **named)

    for module in (activation_figure, comparison, error_map):
        monkeypatch.setattr(module, 'draw_grid', draw)
    return seen


def test_comparison(
    project: Project, out: Path, columns: dict[str, list[Cell]], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ['--teacher', '--count', '2', '--cell-width', '96', '--out', str(out)]
    assert main(['compare', *project.runs, *options]) == 0
    assert list(columns) == ['image', 'ground truth', 'baseline', 'CGD + KL', 'teacher']
    said = capsys.readouterr().out
    assert 'Looking where baseline and CGD + KL differ, on 4 images' in said
    assert len(re.search(r'Images: (.*)', said)[1].split(', ')) == 2  # type: ignore[index]
    figure = Image.open(out)
    assert f'{out}: {figure.width}x{figure.height} pixels' in said
    assert figure.width == 5 * 96 + 6 * 3
    again = out.with_name('again.png')
    assert main(['compare', *project.runs, *options[:-1], str(again)]) == 0
    assert again.read_bytes() == out.read_bytes()


def test_the_images_that_are_asked_for_in_their_order(
    project: Project, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ['compare', *project.runs, '--out', str(out), '--images']
    assert main([*arguments, '3', '1.jpg', 'elsewhere/0.jpg']) == 0
    assert 'Images: 3 (3), 1 (1), 0 (0)\n' in capsys.readouterr().out
    assert "no image 'x'; nearest: " in error_of(capsys, *arguments, 'x')
    # '4' is no file's name either.
    assert 'a position from 0 to 3, got 4.' in error_of(capsys, *arguments, '4')


def test_titles_of_a_command_line(
    project: Project, out: Path, columns: dict[str, list[Cell]]
) -> None:
    config = next(Path(project.runs[1]).glob('*.py'))
    own = write_config(project.folder, project.teacher, project.data, 'own.py')
    networks = [
        f'a b={project.runs[0]}',
        f'{config}:{project.runs[1]}/iter_4.pth',
        f'{own}:{project.weights}',
    ]
    assert main(['errors', *networks, '--between', 'own', 'a b', '--out', str(out)]) == 0
    expected = ['a b: errors', 'CGD + KL: errors', 'own: errors', 'own against a b']
    assert list(columns)[2:] == expected


def test_runs_of_one_title_are_called_by_their_folders(
    project: Project, out: Path, columns: dict[str, list[Cell]], tmp_path: Path
) -> None:
    copy = shutil.copytree(project.runs[1], tmp_path / 'seed=1')
    assert main(['compare', project.runs[1], str(copy), '--images', '0', '--out', str(out)]) == 0
    assert list(columns)[2:] == ['cgd', 'seed=1']


def test_errors_of_one_network(project: Project, out: Path, columns: dict[str, list[Cell]]) -> None:
    assert main(['errors', project.runs[0], '--images', '0', '--out', str(out)]) == 0
    assert list(columns) == ['image', 'ground truth', 'baseline: errors']


def test_layers_of_the_terms(project: Project, out: Path, columns: dict[str, list[Cell]]) -> None:
    options = ['--teacher', '--images', '0', '--cell-width', '96', '--out', str(out)]
    assert main(['features', *project.runs, *options]) == 0
    assert list(columns) == ['image', 'baseline', 'CGD + KL', 'teacher']
    assert [cell.caption for cell in columns['CGD + KL']] == [
        'decode_head.conv_seg\nbest class, 5x5x6',
        'decode_head.conv_seg\nentropy, 5x5x6',
        'backbone.layer1\nenergy, 4x10x12',
        'backbone.layer1\nprincipal components, 4x10x12',
    ]
    assert columns['teacher'][2].caption == 'backbone.layer2\nenergy, 16x5x6'
    assert [cell.caption for cell in columns['image']] == ['ground truth', '0', '0', '0']


def test_attention_and_features_of_a_transformer(
    project: Project, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = {**mit(), 'data_preprocessor': preprocessor(size=None)}
    config = write_config(tmp_path, model, project.data, 'own.py')
    network = f'{config}:{save_weights(model, tmp_path / "mit.pth")}'
    options = ['--images', '1', '--out', str(out), '--layers', BLOCK]
    assert main(['features', network, *options, '--query', '0.2', '0.9']) == 0
    first = out.read_bytes()
    assert main(['features', network, *options, '--query', '0.9', '0.1']) == 0
    assert out.read_bytes() != first
    assert main(['features', network, *options, 'backbone.layers.0.1.0']) == 0
    assert 'expected two numbers from 0 to 1' in error_of(
        capsys, 'features', network, *options, '--query', '0.5', '1.5'
    )
    missing = error_of(capsys, 'features', network, '--layers', 'backbone.layers.7')
    assert "the network 'own' has no layer 'backbone.layers.7'; nearest: backbone." in missing


def test_layers_that_differ_in_name(project: Project, out: Path) -> None:
    pair = 'backbone.layer1:backbone.layer2'
    options = ['--teacher', '--images', '0', '--out', str(out), '--layers', pair]
    assert main(['features', project.runs[0], *options]) == 0


def test_a_baseline_has_no_layers_of_its_own(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    message = error_of(capsys, 'features', project.runs[0], '--teacher')
    assert 'none of the configs has a distillation with such terms: say with --layers' in message


def test_images_without_ground_truth(
    project: Project, out: Path, columns: dict[str, list[Cell]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = project.data / 'images' / 'val'
    # The data of the config need not be there.
    absent = ['--cfg-options', 'val_dataloader.dataset.data_root=absent', '--out', str(out)]
    one = ['--count', '1', '--input', str(folder)]
    assert main(['compare', *project.runs, *one, *absent]) == 0
    assert list(columns) == ['image', 'baseline', 'CGD + KL']
    assert 'on 4 images' in capsys.readouterr().out
    assert main(['compare', *project.runs, '--input', str(folder / '2.jpg'), *absent]) == 0
    assert 'Images: 2 (0)' in capsys.readouterr().out
    assert main(['features', project.runs[1], '--input', str(folder / '2.jpg'), *absent]) == 0


def test_input_that_is_none(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compare = ['compare', *project.runs, '--input']
    assert 'there is no such file or folder' in error_of(capsys, *compare, 'absent')
    assert 'there are no pictures in it' in error_of(capsys, *compare, str(tmp_path))
    broken = tmp_path / 'broken.png'
    broken.write_bytes(b'no picture at all')
    assert f'image {broken} ' in error_of(capsys, *compare, str(broken))
    errors = error_of(capsys, 'errors', *project.runs, '--input', str(broken))
    assert errors == 'error: errors needs ground truth, and --input has none; take compare.\n'


def test_a_data_set_without_ground_truth(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(project.data / 'images', tmp_path / 'images')
    moved = ['--cfg-options', f'val_dataloader.dataset.data_root={tmp_path}']
    message = error_of(capsys, 'compare', *project.runs, *moved)
    assert 'val data: 4 files are missing; the first: mask ' in message
    assert message.endswith('For images without ground truth: --input DIR.\n')


def test_a_pipeline_that_loads_no_masks_and_nameless_classes(
    project: Project, out: Path, columns: dict[str, list[Cell]], capsys: pytest.CaptureFixture[str]
) -> None:
    data = 'val_dataloader.dataset.'
    options = ['--images', '0', '--out', str(out), '--cfg-options']
    cfg = Config.fromfile(next(Path(project.runs[0]).glob('*.py')))
    del cfg.val_dataloader.dataset.pipeline[1]
    path = out.with_name('unlabelled.py')
    cfg.dump(path)
    network = f'{path}:{project.runs[0]}/iter_4.pth'
    assert main(['compare', network, *options[:-1]]) == 0
    assert list(columns) == ['image', 'baseline']
    message = error_of(capsys, 'errors', network, *options[:-1])
    assert message == 'error: errors needs ground truth, and the data set has none.\n'
    nameless = error_of(capsys, 'compare', project.runs[0], *options, f'{data}metainfo=None')
    assert 'the data set names no classes; give it metainfo=dict(classes=(...))' in nameless


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--out', 'figure.jpg'], '--out: expected a name that ends in .png, got'),
        (['--count', '0'], '--count: expected 1 or more, got 0'),
        (['--cell-width', '10'], '--cell-width: expected 64 or more, got 10'),
        (['--between', 'baseline', 'gcd'], "--between: there is no network 'gcd'; nearest: "),
        (['--teacher', 'tests'], "--teacher: 'tests' is no name; networks go before --teacher."),
        (['--teacher', 'b3'], "--teacher: got 'b3', expected one of teacher"),
    ],
)
def test_options_that_are_wrong(
    project: Project,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    assert message in error_of(capsys, 'compare', *project.runs, *arguments)


def test_networks_that_cannot_be_found_are_all_named(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(next(Path(project.runs[0]).glob('*.py')))
    message = error_of(capsys, 'compare', 'absent', config, f'x={project.weights}', 'y=')
    assert message.startswith('error: 4 problems:')
    assert '1. absent: there is no such folder' in message
    assert f'expected its checkpoint too, as {config}:CHECKPOINT' in message
    assert f'expected its config too, as CONFIG:{project.weights}' in message
    assert "'y=': expected [TITLE=]WORK_DIR" in message


def test_networks_that_do_not_go_together(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = resnet(classes=3)
    config = write_config(tmp_path, other, project.data, 'other.py')
    network = f'{config}:{save_weights(other, tmp_path / "other.pth")}'
    message = error_of(capsys, 'compare', project.runs[0], network)
    assert 'different numbers of classes apart: baseline 5, other 3' in message
    twice = error_of(capsys, 'compare', f'a={project.runs[0]}', f'a={project.runs[1]}')
    assert "several networks are called 'a'; write TITLE= before them" in twice
    column = error_of(capsys, 'compare', f'image={project.runs[0]}')
    assert "'image' is the title of another column" in column


def test_a_checkpoint_of_another_network(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    config = next(Path(project.runs[0]).glob('*.py'))
    message = error_of(capsys, 'compare', f'{config}:{project.weights}')
    assert 'of another shape' in message
    assert message.endswith('Give the checkpoint of the same architecture.\n')


def test_a_split_that_is_not_there(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    removed = ['--cfg-options', 'test_dataloader=None', '--split', 'test']
    message = error_of(capsys, 'compare', project.runs[0], *removed)
    assert 'the config has no test_dataloader; it has: val.' in message


def test_void_and_the_palette_are_in_the_figure(project: Project, out: Path) -> None:
    assert main(['compare', project.runs[0], '--images', '0', '--out', str(out)]) == 0
    figure = np.asarray(Image.open(out).convert('RGB'))
    label = np.asarray(Image.open(project.data / 'annotations' / 'val' / '0.png'))
    gap, width = 10, 320
    column = figure[:, gap + width + gap : 2 * (gap + width)]
    for index in np.unique(label[label != 255]):
        assert (column == index).all(axis=2).any()  # the palette is grey


def test_another_device(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    message = error_of(capsys, 'compare', project.runs[0], '--device', 'cuda')
    assert '--device cuda: there is none here' in message


def test_a_network_keeps_what_it_is(project: Project) -> None:
    """Looking at layers leaves no hooks behind."""
    network = build(project.student)
    cfg = dict(
        type='BaseSegDataset',
        data_root=str(project.data),
        data_prefix=dict(img_path='images/val'),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='PackSegInputs')],
    )
    tap(TappedNetwork(network), build_dataset(cfg, 'val')[0], ['backbone.layer1'])
    assert not any(module._forward_hooks for module in network.modules())
