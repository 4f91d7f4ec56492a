"""Export a trained student: for stock mmseg, as safetensors, as ONNX, or for torch.export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import Tensor

from mmseg_kd.checkpoints import load_weights
from mmseg_kd.config.experiments import split_name
from mmseg_kd.config.load import load_config
from mmseg_kd.config.network_spec import trained_network_of
from mmseg_kd.errors import CheckpointError, ConfigError, DatasetError
from mmseg_kd.evaluation.check_metric import check_metric
from mmseg_kd.export.agreement import ExportedFile, compare
from mmseg_kd.export.export_module import ExportModule
from mmseg_kd.export.graph import export_graph, signature
from mmseg_kd.export.latency import Timing, time_networks
from mmseg_kd.export.miou import miou
from mmseg_kd.export.onnx_file import OnnxModel, require_onnx
from mmseg_kd.export.options import GRAPHS, check_options, target_of
from mmseg_kd.export.pictures import pictures_of, random_pictures, scaled
from mmseg_kd.export.quantisation import quantise
from mmseg_kd.export.weights import export_weights
from mmseg_kd.networks.build import build_network, replace_sync_bn, without_initialisation


@dataclass
class Exported:
    """What `export_student` wrote and measured.

    Attributes:
        files: By the format's name; a quantised one as 'onnx, int8 static' or
            'onnx, int8 dynamic'.
        config: What stock mmseg evaluates weights by; None where it is in no file of its own.
        modules: The user's own ones that this config needs beside mmseg.
        signature: Input and output of a graph in words; '' for weights.
        timings: Of the teachers, the student and the files; empty where they are not asked for.
        timed_size: Height and width of the image that was timed.
        remarks: What could not be done, in words.
    """

    files: dict[str, ExportedFile] = field(default_factory=dict)
    config: Path | None = None
    modules: Sequence[str] = ()
    signature: str = ''
    timings: Sequence[Timing] = ()
    timed_size: tuple[int, int] = (0, 0)
    remarks: list[str] = field(default_factory=list)


def export_student(
    config: str | Path,
    checkpoint: str | Path,
    *,
    to: str,
    out: str | Path | None = None,
    with_preprocessing: str | None = None,
    labels: bool = False,
    fixed_size: Sequence[int] | None = None,
    one_image: bool = False,
    int8: str | None = None,
    images: int = 8,
    calibration_images: int = 32,
    benchmark: bool = False,
    cfg_options: Mapping[str, Any] | None = None,
) -> Exported:
    """Write a trained student in another format, and compare what was written with PyTorch.

    This is `mmseg-kd export` as a function; messages name its arguments as the command does.

    Args:
        config: Of a distillation or of a network on its own: a file, `FILE.py::NAME` or
            `mmseg::...`.
        checkpoint: Of the whole distillation or of the student alone.
        to: 'mmseg' (weights and a config), 'safetensors', 'onnx' or 'torch_export'.
        out: The file; None: `student.*` in the folder of the checkpoint.
        with_preprocessing: 'bgr' or 'rgb': a graph takes uint8 images (N, H, W, 3) with this order
            of channels and normalises them inside; None: it takes normalised ones.
        labels: A graph puts out labels, not scores.
        fixed_size: Height and width, where a graph is for images of one size; None: of any size.
        one_image: A graph is for a batch of one image, not of any number.
        int8: 'static' (ranges found on images of the train split) or 'dynamic': write a quantised
            ONNX file too, `*.int8.onnx`, and measure the mIoU of both.
        images: How many test images to compare on, >= 1.
        calibration_images: How many train images for `int8='static'`, >= 1.
        benchmark: Time the teachers, the student and the files on this machine's CPU.
        cfg_options: Changes to the config by dotted names.

    Returns:
        The files, and what was measured of them.

    Raises:
        ConfigError: An argument or the config says something that cannot be done.
        CheckpointError: The checkpoint is another network's or cannot be read, or a file cannot
            be written.
        DatasetError: There are no train images to calibrate on.
        ExportError: The network cannot be exported, or what was exported computes something else.
    """
    check_options(
        to=to,
        with_preprocessing=with_preprocessing,
        labels=labels,
        fixed_size=fixed_size,
        one_image=one_image,
        int8=int8,
        images=images,
        calibration_images=calibration_images,
    )
    target = target_of(to, out, checkpoint, split_name(str(config))[0])
    if to == 'onnx':
        require_onnx()
    exported = Exported()
    with DefaultScope.overwrite_default_scope('mmseg'):
        cfg = load_config(str(config), cfg_options)
        deployed = ExportModule(_load_student(cfg, str(checkpoint)), with_preprocessing, labels)
        classes = deployed.network.num_classes
        pictures = _pictures(cfg, images, classes, fixed_size, exported.remarks)
        if to in GRAPHS:
            meta = {'config': str(config), 'checkpoint': Path(checkpoint).name}
            file = export_graph(deployed, pictures, target, bool(fixed_size), one_image, meta)
            exported.signature = signature(deployed, fixed_size, one_image)
        else:
            file, exported.modules = export_weights(cfg, deployed, pictures, target)
            exported.config = target.with_suffix('.py') if to == 'mmseg' else None
        exported.files[to] = file
        if int8:
            calibration = []
            if int8 == 'static':
                calibration = pictures_of(cfg, 'train', calibration_images, classes, fixed_size)
            file = _quantised(deployed, target, int8, calibration, pictures)
            exported.files[f'{to}, int8 {int8}'] = file
            _measure_miou(cfg, deployed, exported, bool(fixed_size))
        if benchmark:
            exported.timings = time_networks(cfg, deployed, exported.files, pictures[0])
            exported.timed_size = (pictures[0].shape[1], pictures[0].shape[2])
    return exported


def _load_student(cfg: Config, checkpoint: str) -> Any:
    """The trained network, on the CPU."""
    model = without_initialisation(trained_network_of(cfg).model)
    network = build_network(replace_sync_bn(model), 'student')
    report = load_weights(network, checkpoint)
    if report.unexpected:
        raise CheckpointError(f'{report}\nGive the checkpoint of the same architecture.')
    return network.eval()


def _pictures(
    cfg: Config, count: int, classes: int, size: Sequence[int] | None, remarks: list[str]
) -> list[Tensor]:
    """Pictures of the test split, or random ones where there is none, and a remark on these."""
    try:
        return pictures_of(cfg, 'test', count, classes, size)
    except DatasetError as error:
        remarks.append(f'No test images, random ones take their place. {error}')
        return [scaled(picture, size) for picture in random_pictures()]


def _quantised(
    deployed: ExportModule,
    source: Path,
    mode: str,
    calibration: Sequence[Tensor],
    pictures: Sequence[Tensor],
) -> ExportedFile:
    """A copy of an ONNX file that computes with 8-bit integers, compared with PyTorch."""
    target = source.with_suffix(f'.int8{source.suffix}')
    quantise(source, target, mode, [deployed.input_of(picture) for picture in calibration])
    function = OnnxModel(target)
    agreement = compare(deployed, function, map(deployed.input_of, pictures))
    return ExportedFile(target, agreement, function)


def _measure_miou(
    cfg: Config, deployed: ExportModule, exported: Exported, fixed_size: bool
) -> None:
    if fixed_size:
        exported.remarks.append(
            'mIoU is not measured with --fixed-size: test images may be of any size.'
        )
        return
    try:
        check_metric('mIoU', cfg, 'test', 'test_evaluator')
        for name, file in exported.files.items():
            assert file.function is not None
            measured = miou(cfg, deployed, file.function)
            exported.files[name] = replace(file, miou=measured)
    except (ConfigError, DatasetError) as error:
        exported.remarks.append(f'mIoU is not measured. {error}')
