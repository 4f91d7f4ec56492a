"""Exporting by the function, without the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from builders import (
    ROOT,
    build,
    resnet,
    save_weights,
    term,
    wrapper_config,
    write_config,
    write_dataset,
)
from mmengine.config import Config
from mmengine.registry import DefaultScope, init_default_scope
from mmseg.registry import MODELS

from mmseg_kd.errors import CheckpointError, ConfigError
from mmseg_kd.export.student import export_student

SIZE = (40, 48)


class Project:
    """A distillation with the checkpoint of its student."""

    def __init__(self, folder: Path) -> None:
        init_default_scope('mmseg')
        self.data = write_dataset(folder / 'data', size=SIZE)
        weights = save_weights(resnet(8), folder / 'teacher.pth')
        model = wrapper_config(resnet(), resnet(8), weights, term())
        self.config = write_config(folder, model, self.data)
        self.checkpoint = save_weights(resnet(), folder / 'student_of_4.pth')
        self.student = build(resnet()).eval()
        self.student.load_state_dict(torch.load(self.checkpoint))

    def export(self, out: Path, **options: Any) -> Any:
        return export_student(self.config, self.checkpoint, out=out, **options)


@pytest.fixture(scope='module')
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp('project'))


def test_weights_and_config(project: Project) -> None:
    exported = export_student(project.config, project.checkpoint, to='mmseg')
    [file] = exported.files.values()
    # Beside the checkpoint, where no other place is named.
    assert file.path == project.config.with_name('student.pth')
    assert (file.function, file.miou, exported.signature) == (None, None, '')
    assert (file.agreement.images, file.agreement.difference) == (3, 0.0)
    assert exported.config is not None
    network = MODELS.build(Config.fromfile(exported.config).model)
    network.load_state_dict(torch.load(file.path)['state_dict'], strict=True)
    assert not exported.remarks


def test_a_graph_is_a_function_too(project: Project, tmp_path: Path) -> None:
    exported = project.export(tmp_path / 'a.pt2', to='torch_export', images=2, benchmark=True)
    file = exported.files['torch_export']
    assert file.path == tmp_path / 'a.pt2'
    # Two images, and two of another size.
    assert file.agreement.images == 4
    expected = 'image float32 (batch, 3, height, width), normalised -> '
    assert exported.signature == expected + 'scores float32 (batch, 5, height, width)'
    images = torch.randn(2, 3, 33, 47)
    with torch.no_grad():
        scores = project.student.encode_decode(images, [dict(img_shape=images.shape[2:])])
    torch.testing.assert_close(file.function(images), scores)
    names = [timing.name for timing in exported.timings]
    assert names == ['teacher', 'student', 'student, torch_export']
    assert exported.timings[0].parameters > exported.timings[1].parameters
    assert exported.timings[2].size == file.path.stat().st_size
    assert exported.timed_size == SIZE


def test_integers_and_what_both_files_measure(project: Project, tmp_path: Path) -> None:
    pytest.importorskip('onnxruntime')
    options = dict(to='onnx', int8='static', calibration_images=2)
    exported = project.export(tmp_path / 'a.onnx', **options)
    plain, quantised = exported.files['onnx'], exported.files['onnx, int8 static']
    assert (plain.path.name, quantised.path.name) == ('a.onnx', 'a.int8.onnx')
    assert 0 < plain.agreement.difference < 1e-3 < quantised.agreement.difference
    assert plain.miou > 0
    assert quantised.miou > 0
    exported = project.export(tmp_path / 'b.onnx', fixed_size=(24, 32), **options)
    assert [file.miou for file in exported.files.values()] == [None, None]
    assert exported.remarks == [
        'mIoU is not measured with --fixed-size: test images may be of any size.'
    ]


def test_the_process_keeps_its_scope_and_needs_none(project: Project, tmp_path: Path) -> None:
    with DefaultScope.overwrite_default_scope('mmengine'):
        project.export(tmp_path / 'a.safetensors', to='safetensors')
        assert DefaultScope.get_current_instance().scope_name == 'mmengine'


def test_what_the_page_shows(project: Project) -> None:
    page = (ROOT / 'docs' / 'export.md').read_text(encoding='utf-8')
    [code] = [part.split('```')[0] for part in page.split('```python\n') if 'to=' in part]
    code = code.replace('CONFIG.py', str(project.config))
    names: dict[str, Any] = dict(images=torch.zeros(2, 3, 32, 64))
    exec(code.replace('work_dirs/NAME/iter_160000.pth', project.checkpoint), names)
    assert names['scores'].shape == (2, 5, 32, 64)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(to='onx'), "--to: expected one of mmseg, safetensors, onnx, torch_export, got 'onx'"),
        (dict(to='onnx', with_preprocessing='grey'), '--with-preprocessing: expected one of bgr, '),
        (dict(to='onnx', int8='float'), '--int8: expected one of dynamic, static, got'),
        (dict(to='mmseg', fixed_size=(4, 4)), '--fixed-size goes with --to onnx or torch_export'),
        (dict(to='torch_export', images=0), '--images: expected 1 or more, got 0'),
        (dict(to='safetensors', out=Path('a.pth')), '--out: expected a name that ends in .safet'),
    ],
)
def test_arguments_that_do_not_fit(project: Project, options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        export_student(project.config, project.checkpoint, **options)


@pytest.mark.parametrize('experiment', ['', '::half'])
def test_the_config_is_not_written_over(tmp_path: Path, experiment: str) -> None:
    config = tmp_path / 'series.py'
    config.touch()
    with pytest.raises(ConfigError, match=r'beside .*series.py itself; give another name'):
        export_student(
            f'{config}{experiment}', tmp_path / 'x.pth', to='mmseg', out=tmp_path / 'series.pth'
        )


def test_a_checkpoint_with_more_than_the_network_has(project: Project, tmp_path: Path) -> None:
    state = project.student.state_dict()
    torch.save({**state, 'neck.weight': torch.zeros(1)}, tmp_path / 'more.pth')
    with pytest.raises(CheckpointError, match='unexpected: neck'):
        export_student(project.config, tmp_path / 'more.pth', to='mmseg')
