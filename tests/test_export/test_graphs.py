"""Networks as graphs of torch.export and as ONNX files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import SIZE, build, mit, preprocessor, resnet
from mmengine.registry import init_default_scope
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmseg_kd.errors import ConfigError, ExportError
from mmseg_kd.export.agreement import compare
from mmseg_kd.export.export_module import ExportModule
from mmseg_kd.export.onnx_file import OnnxModel, onnx_bytes
from mmseg_kd.export.pictures import random_pictures, scaled
from mmseg_kd.export.program import ProgramModel, program_bytes, trace
from mmseg_kd.export.quantisation import quantise

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')


def network(model: dict[str, Any], **changes: Any) -> Any:
    """A network that finds each class somewhere in noise."""
    init_default_scope('mmseg')
    built = build({**model, **changes}).eval()
    with torch.no_grad():
        for name, tensor in built.named_buffers():
            if name.endswith('running_mean'):
                tensor.uniform_(-0.1, 0.1)
        conv_seg = built.decode_head.conv_seg
        conv_seg.weight.mul_(100)
        scores_NChw = built(torch.randn(1, 3, 64, 64), mode='tensor')
        conv_seg.bias.sub_(scores_NChw.mean((0, 2, 3)))
    return built


@pytest.fixture(scope='module')
def transformer() -> tuple[ExportModule, bytes]:
    """One with attention, and its file."""
    deployed = ExportModule(network(mit(8, drop_path=0.0)))
    return deployed, onnx_of(deployed)


def picture(size: tuple[int, int] = (64, 96), seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)


def onnx_of(deployed: ExportModule) -> bytes:
    image = deployed.input_of(picture())
    return onnx_bytes(trace(deployed, image), deployed, {'config': 'tiny.py'})


def inputs(deployed: ExportModule) -> list[Tensor]:
    """One image, another size, and a batch of three."""
    batch = torch.cat([deployed.input_of(picture((50, 77), seed)) for seed in range(3)])
    return [deployed.input_of(picture((64, 96), 1)), deployed.input_of(picture((97, 131))), batch]


def test_scores_of_a_transformer_at_any_size(transformer: tuple[ExportModule, bytes]) -> None:
    deployed, content = transformer
    agreement = compare(deployed, OnnxModel(content), inputs(deployed))
    assert agreement.images == 5
    assert agreement.labels == 1
    assert agreement.difference is not None
    assert agreement.scale is not None
    assert 0 < agreement.difference < 1e-4 * agreement.scale
    model = onnx.load_from_string(content)
    [image], [scores] = model.graph.input, model.graph.output
    shape = [dim.dim_param or dim.dim_value for dim in image.type.tensor_type.shape.dim]
    assert (image.name, shape) == ('image', ['batch', 3, 'height', 'width'])
    shape = [dim.dim_param or dim.dim_value for dim in scores.type.tensor_type.shape.dim]
    assert (scores.name, shape) == ('scores', ['batch', 5, 'height', 'width'])
    assert {p.key: p.value for p in model.metadata_props}['config'] == 'tiny.py'


@pytest.mark.parametrize('colours', ['bgr', 'rgb'])
def test_pictures_to_labels(colours: str) -> None:
    """What the file makes of raw pictures is what mmseg predicts for them."""
    # A mean that tells the channels apart.
    own = preprocessor(mean=[20.0, 120.0, 220.0], std=[10.0, 60.0, 90.0])
    built = network(resnet(), data_preprocessor=own)
    deployed = ExportModule(built, colours, labels=True)
    exported = OnnxModel(onnx_of(deployed)) if colours == 'rgb' else deployed
    raw = picture(SIZE, seed=3)
    pixels = raw.flip(0) if colours == 'rgb' else raw
    label = exported(pixels.permute(1, 2, 0)[None].contiguous())
    assert label.dtype == torch.int32
    expected = predicted(built, raw)
    assert len(expected.unique()) > 1
    assert torch.equal(label[0].long(), expected)
    swapped = exported(pixels.flip(0).permute(1, 2, 0)[None].contiguous())
    assert not torch.equal(swapped[0].long(), expected)
    if colours == 'rgb':
        assert compare(deployed, exported, inputs(deployed)).labels == 1


def predicted(built: Any, raw: Tensor) -> Tensor:
    """By mmseg's own way."""
    shape = tuple(raw.shape[1:])
    sample = SegDataSample(metainfo=dict(img_shape=shape, ori_shape=shape))
    with torch.no_grad():
        result = built.test_step(dict(inputs=[raw], data_samples=[sample]))
    label: Tensor = result[0].pred_sem_seg.data[0]
    return label


def test_a_program_of_torch() -> None:
    deployed = ExportModule(network(resnet()))
    content = program_bytes(trace(deployed, deployed.input_of(picture())))
    assert compare(deployed, ProgramModel(content), inputs(deployed)).difference == 0
    assert isinstance(torch.export.load(io.BytesIO(content)), torch.export.ExportedProgram)


def test_a_fixed_size_takes_any_number_of_images() -> None:
    deployed = ExportModule(network(resnet()))
    image = deployed.input_of(picture())
    exported = ProgramModel(program_bytes(trace(deployed, image, ['batch'])))
    assert compare(deployed, exported, [image, torch.cat([image] * 3)]).labels == 1
    with pytest.raises(
        ExportError, match=r'fails on an input of \(1, 3, 97, 131\): .*--fixed-size'
    ):
        compare(deployed, exported, [deployed.input_of(picture((97, 131)))])


class Eigenvalues(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        square = x[..., :8, :8]
        return x + torch.linalg.eigvalsh(square @ square.mT).sum()


class DependsOnValues(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.mean() > 0 else x


def test_an_operation_that_onnx_lacks_names_its_layer() -> None:
    built = network(resnet())
    built.backbone.layer1.add_module('odd', Eigenvalues())
    deployed = ExportModule(built)
    program = trace(deployed, deployed.input_of(picture()))
    with pytest.raises(ExportError) as caught:
        onnx_bytes(program, deployed, {})
    assert str(caught.value).startswith(
        "layer 'backbone.layer1.odd' has the operation aten._linalg_eigh, which ONNX lacks. Put a "
    )
    assert '--to torch_export' in str(caught.value)


class CountsImages(nn.Module):
    """As Swin's windows."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(int(x.shape[0] / 1), *x.shape[1:])


def test_what_the_code_takes_for_a_constant_is_named() -> None:
    built = network(resnet())
    built.backbone.layer1.add_module('odd', CountsImages())
    deployed = ExportModule(built)
    image = deployed.input_of(picture())
    message = "^the network's code takes batch of the images for .* with --one-image.$"
    with pytest.raises(ExportError, match=message):
        trace(deployed, image)
    exported = ProgramModel(program_bytes(trace(deployed, image, ['height', 'width'])))
    assert compare(deployed, exported, inputs(deployed)[:2]).labels == 1


def test_a_layer_that_no_graph_can_have_is_named() -> None:
    built = network(resnet())
    built.backbone.layer2.add_module('odd', DependsOnValues())
    deployed = ExportModule(built)
    image = deployed.input_of(picture())
    with pytest.raises(ExportError, match=r"layer 'backbone\.layer2\.odd' fails: .*--fixed-size"):
        trace(deployed, image)
    assert not any(module._forward_pre_hooks for module in built.modules())


def test_matrix_products_with_integers(
    transformer: tuple[ExportModule, bytes], tmp_path: Path
) -> None:
    deployed, content = transformer
    (tmp_path / 'float.onnx').write_bytes(content)
    quantise(tmp_path / 'float.onnx', tmp_path / 'int8.onnx', 'dynamic')
    agreement = compare(deployed, OnnxModel(tmp_path / 'int8.onnx'), inputs(deployed))
    assert agreement.labels > 0.9
    assert agreement.difference is not None
    assert agreement.difference > 1e-4
    with pytest.raises(ExportError, match='expected calibration images'):
        quantise(tmp_path / 'float.onnx', tmp_path / 'x.onnx', 'static')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['float.onnx', 'int8.onnx']


def test_quantisation_that_fails(
    transformer: tuple[ExportModule, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError('no such operator')

    (tmp_path / 'float.onnx').write_bytes(transformer[1])
    monkeypatch.setattr('onnxruntime.quantization.quantize_dynamic', fail)
    with pytest.raises(ExportError, match=r'cannot quantise .*\(RuntimeError: no such operator\)'):
        quantise(tmp_path / 'float.onnx', tmp_path / 'int8.onnx', 'dynamic')
    assert [path.name for path in tmp_path.iterdir()] == ['float.onnx']


def test_what_cannot_be_inside() -> None:
    padding = preprocessor(test_cfg=dict(size_divisor=32))
    with pytest.raises(ConfigError, match='--with-preprocessing: the data_preprocessor pads'):
        ExportModule(network(resnet(), data_preprocessor=padding), 'bgr')
    built = network(resnet())
    built.out_channels = 1
    with pytest.raises(ConfigError, match='--labels: the network has one channel'):
        ExportModule(built, labels=True)


def test_padding_is_done_outside() -> None:
    padding = preprocessor(test_cfg=dict(size_divisor=32))
    deployed = ExportModule(network(resnet(), data_preprocessor=padding))
    assert deployed.input_of(picture((50, 77))).shape == (1, 3, 64, 96)


def test_pictures_at_another_size() -> None:
    pictures = [scaled(one, (40, 60)) for one in random_pictures()]
    assert [(tuple(one.shape), one.dtype) for one in pictures] == [((3, 40, 60), torch.uint8)] * 2
    assert scaled(pictures[0], (40, 60)) is scaled(pictures[0], None) is pictures[0]
