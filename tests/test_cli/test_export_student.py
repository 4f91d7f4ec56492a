"""Exporting through the command line, and what stock mmseg makes of it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import mmseg
import numpy as np
import pytest
import torch
from builders import build, fcn_head, resnet, save_weights, term, wrapper_config, write_config
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from mmseg_kd.cli import test as test_command
from mmseg_kd.cli.export_student import main
from mmseg_kd.config.load import load_config
from mmseg_kd.datasets.toy_scenes.dataset import generate
from mmseg_kd.export.pictures import pictures_of

SIZE = (64, 80)
CLASSES = 12
DATASET = "type='BaseSegDataset'"
METAINFO = re.compile(r'metainfo=dict\(.*\),\n')

# Another process in which this package is not installed.
STOCK = """
import runpy, sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] == 'mmseg_kd':
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NotInstalled())
script, *sys.argv[1:] = sys.argv[1:]
sys.argv[0] = script
runpy.run_path(script, run_name='__main__')
"""


class Project:
    """A distillation on toy scenes with its checkpoint."""

    def __init__(self, folder: Path) -> None:
        init_default_scope('mmseg')
        self.folder = folder
        generate(folder / 'data', train=4, val=3, size=SIZE)
        student = resnet(classes=CLASSES)
        student['decode_head'] = fcn_head(
            8, 1, CLASSES, loss_decode=dict(type='FusedCrossEntropyLoss')
        )
        teacher = resnet(8, classes=CLASSES)
        weights = save_weights(teacher, folder / 'teacher.pth')
        model = wrapper_config(student, teacher, weights, term())
        path = write_config(folder, model, folder / 'data')
        text = path.read_text(encoding='utf-8')
        text = METAINFO.sub('', text.replace(DATASET, "type='ToyScenesDataset'"))
        text = text.replace("loader('train'", "loader('training'")
        path.write_text(text.replace("loader('val'", "loader('validation'"), encoding='utf-8')
        self.config = str(path)
        self.checkpoint = str(folder / 'iter_4.pth')
        network = build(model)
        self._vary(network.student)
        torch.save({'state_dict': network.state_dict(), 'meta': {}}, self.checkpoint)
        self.student = network.student

    def _vary(self, student: Any) -> None:
        """Let it find each class somewhere."""
        with torch.no_grad():
            student.eval()
            conv_seg = student.decode_head.conv_seg
            conv_seg.weight.mul_(100)
            images = torch.randn(1, 3, *SIZE)
            conv_seg.bias.sub_(student(images, mode='tensor').mean((0, 2, 3)))

    def export(self, *options: str) -> int:
        return main([self.config, self.checkpoint, *options])


@pytest.fixture(scope='module')
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp('project'))


@pytest.mark.slow
def test_stock_mmseg_measures_the_same_without_this_package(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / 'shipped.pth'
    assert project.export('--to', 'mmseg', '--out', str(target)) == 0
    assert 'largest logit difference 0.00e+00' in capsys.readouterr().out
    content = torch.load(target, weights_only=True)
    assert content['state_dict'].keys() == project.student.state_dict().keys()
    assert len(content['meta']['dataset_meta']['classes']) == CLASSES
    text = (tmp_path / 'shipped.py').read_text(encoding='utf-8')
    assert not any(word in text for word in ('mmseg_kd', 'Distillation', 'ToyScenes', 'Fused'))

    tool = Path(mmseg.__file__).parent / '.mim' / 'tools' / 'test.py'
    work = tmp_path / 'stock'
    command = [sys.executable, '-c', STOCK, str(tool), 'shipped.py', 'shipped.pth']
    done = subprocess.run(
        [*command, '--work-dir', str(work)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert 'missing keys' not in done.stdout + done.stderr
    ours = tmp_path / 'ours'
    arguments = [project.config, project.checkpoint, '--work-dir', str(ours)]
    assert test_command.main(arguments) == 0
    stock_metrics, our_metrics = (measured(folder) for folder in (work, ours))
    assert stock_metrics == our_metrics
    assert our_metrics['mIoU'] > 0.5


def measured(folder: Path) -> dict[str, float]:
    [report] = folder.glob('*/*.json')
    metrics = json.loads(report.read_text(encoding='utf-8'))
    return {key: metrics[key] for key in ('aAcc', 'mIoU', 'mAcc')}


def test_safetensors_carry_their_config(project: Project, tmp_path: Path) -> None:
    target = tmp_path / 'student.safetensors'
    assert project.export('--to', 'safetensors', '--out', str(target)) == 0
    with safe_open(target, 'pt') as file:
        meta = file.metadata()
    network = MODELS.build(Config.fromstring(meta['config'], '.py').model)
    network.load_state_dict(load_file(target), strict=True)
    assert len(json.loads(meta['dataset_meta'])['palette']) == CLASSES
    assert [path.name for path in tmp_path.iterdir()] == ['student.safetensors']


def test_onnx_int8_and_the_table(
    project: Project, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip('onnxruntime')
    target = tmp_path / 'student.onnx'
    assert project.export('--to', 'onnx', '--out', str(target), '--int8', 'static') == 0
    out = capsys.readouterr().out
    assert '-> scores float32 (batch, 12, height, width)' in out
    # Three test images, and two of another size.
    first, second = re.findall(r': (\d) images: largest logit difference (\S+) of', out)
    assert (first[0], second[0]) == ('5', '3')
    assert float(first[1]) < 1e-3 < float(second[1])
    [plain, int8] = map(float, re.findall(r'mIoU on the test split, .*: ([\d.]+)\n', out))
    assert plain == project_miou(project, tmp_path)
    assert int8 > 0
    assert sorted(path.name for path in tmp_path.glob('student*')) == [
        'student.int8.onnx',
        'student.onnx',
    ]


def project_miou(project: Project, folder: Path) -> float:
    arguments = [project.config, project.checkpoint, '--work-dir', str(folder / 'test')]
    assert test_command.main([*arguments, '--cfg-options', 'visualizer.name=onnx']) == 0
    return round(measured(folder / 'test')['mIoU'], 2)


def test_a_program_on_random_images_and_the_table(
    project: Project, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    target = tmp_path / 'student.pt2'
    options = ['--to', 'torch_export', '--out', str(target), '--benchmark', '--labels']
    missing = ['--cfg-options', f'test_dataloader.dataset.data_root={tmp_path / "absent"}']
    assert project.export(*options, *missing) == 0
    out = capsys.readouterr().out
    assert 'No test images, random ones take their place. test data: ' in out
    assert ': 4 images: 100.0000% of the labels agree.' in out
    names = re.findall(r'^\| (\w.*?) +\|', out, re.MULTILINE)
    assert names == ['network', 'teacher', 'student', 'student, torch_export']
    exported = torch.export.load(target).module()
    assert exported(torch.randn(3, 3, 40, 50)).shape == (3, 40, 50)


def test_one_image_of_one_size(
    project: Project, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    target = tmp_path / 'student.pt2'
    only = ['--fixed-size', '40', '50', '--one-image', '--images', '1']
    assert project.export('--to', 'torch_export', '--out', str(target), *only) == 0
    out = capsys.readouterr().out
    assert 'image float32 (1, 3, 40, 50), normalised -> scores float32 (1, 12, 40, 50)' in out
    assert 'Against PyTorch: 3 images: ' in out


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--to', 'mmseg', '--labels'], '--labels goes with --to onnx or torch_export, got --to m'),
        (['--to', 'torch_export', '--int8', 'static'], '--int8 goes with --to onnx, got --to torc'),
        (['--to', 'onnx', '--out', 'student.pth'], '--out: expected a name that ends in .onnx, go'),
        (['--to', 'onnx', '--images', '0'], '--images: expected 1 or more, got 0'),
        (['--to', 'onnx', '--fixed-size', '0', '4'], '--fixed-size: expected 1 or more, got [0, 4'),
    ],
)
def test_options_that_do_not_fit(
    project: Project, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert project.export(*options) == 1
    assert capsys.readouterr().err.startswith(f'error: {message}')


def test_the_checkpoint_is_not_written_over(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert project.export('--to', 'mmseg', '--out', project.checkpoint) == 1
    assert 'is the checkpoint itself; give another name.' in capsys.readouterr().err
    out = str(Path(project.config).with_suffix('.pth'))
    before = Path(project.config).read_bytes()
    assert project.export('--to', 'mmseg', '--out', out) == 1
    assert 'itself; give another name.' in capsys.readouterr().err
    assert Path(project.config).read_bytes() == before
    # One that is not there is told as such, with a file of the default name beside it too.
    Path(project.checkpoint).with_name('student.pth').touch()
    assert main([project.config, f'{project.checkpoint}x', '--to', 'mmseg']) == 1
    assert 'there is no such checkpoint file' in capsys.readouterr().err


def test_a_checkpoint_of_another_network(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wider = save_weights(resnet(8, classes=CLASSES), tmp_path / 'wider.pth')
    assert main([project.config, wider, '--to', 'mmseg']) == 1
    err = capsys.readouterr().err
    assert 'of another shape' in err
    assert err.endswith('Give the checkpoint of the same architecture.\n')


def test_without_what_onnx_needs(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    assert project.export('--to', 'onnx') == 1
    err = capsys.readouterr().err
    assert "--to onnx needs the package 'onnxruntime', which is not installed" in err
    assert "pip install 'mmseg-kd[export]'" in err


def test_dynamic_int8_of_convolutions(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip('onnxruntime')
    target = tmp_path / 'student.onnx'
    assert project.export('--to', 'onnx', '--out', str(target), '--int8', 'dynamic') == 1
    assert 'got a network of convolutions; take --int8 static.' in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ['student.onnx']


def test_pictures_are_those_of_the_split(project: Project) -> None:
    """What is calibrated on are the train images as they are, not as augmented."""
    cfg = load_config(project.config, None)
    cfg.train_dataloader.dataset.pipeline[2].prob = 1.0
    pictures = pictures_of(cfg, 'train', 2, CLASSES)
    for picture, name in zip(pictures, ('00000', '00002'), strict=True):
        path = project.folder / 'data' / 'images' / 'training' / f'{name}.jpg'
        raw = np.asarray(Image.open(path)).astype(int)
        difference = abs(picture.numpy()[::-1].transpose(1, 2, 0).astype(int) - raw)
        assert difference.mean() < 2  # two decoders of JPEG
