"""A student as a graph in a file: ONNX, or a program of torch.export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_kd.checkpoints.save import atomic_write
from mmseg_kd.export.agreement import ExportedFile, Function, compare
from mmseg_kd.export.export_module import ExportModule
from mmseg_kd.export.onnx_file import OnnxModel, onnx_bytes
from mmseg_kd.export.program import ProgramModel, program_bytes, trace

# What is added to a picture's height and width to see that the size may vary.
OTHER_SIZE = (11, 13)


def export_graph(
    deployed: ExportModule,
    pictures: Sequence[Tensor],
    target: Path,
    fixed_size: bool,
    one_image: bool,
    meta: Mapping[str, str],
) -> ExportedFile:
    """Write a graph, compared with PyTorch before it is written.

    Args:
        deployed: What is exported.
        pictures: (3, H, W), uint8, BGR: what both are compared on; two of another size are added,
            as one batch where it may have several images.
        target: `.onnx` or `.pt2`.
        fixed_size: Whether it is for images of the pictures' size alone.
        one_image: Whether it is for a batch of one image.
        meta: Texts that an ONNX file carries along.

    Raises:
        ExportError: The network cannot be exported, or more than rounding stands between the two.
        CheckpointError: The file cannot be written.
    """
    inputs = [deployed.input_of(picture) for picture in pictures]
    constant = {'height', 'width'} if fixed_size else set()
    constant |= {'batch'} if one_image else set()
    program = trace(deployed, inputs[0], [name for name in deployed.axes() if name not in constant])
    exported: Function
    if target.suffix == '.onnx':
        content = onnx_bytes(program, deployed, meta)
        exported = OnnxModel(content)
    else:
        content = program_bytes(program)
        exported = ProgramModel(content)
    height, width = (0, 0) if fixed_size else OTHER_SIZE
    other = F.pad(pictures[0], (0, width, 0, height))
    others = [deployed.input_of(picture) for picture in (other, other.flip(2))]
    inputs += others if one_image else [torch.cat(others)]
    agreement = compare(deployed, exported, inputs)
    agreement.check(str(target))
    with atomic_write(target) as unfinished:
        unfinished.write_bytes(content)
    return ExportedFile(target, agreement, exported)


def signature(
    deployed: ExportModule, fixed_size: Sequence[int] | None = None, one_image: bool = False
) -> str:
    """Input and output of a graph in words.

    Args:
        deployed: What is exported.
        fixed_size: Height and width; None: they may vary.
        one_image: Whether it is for a batch of one image.
    """
    batch = 1 if one_image else 'batch'
    height, width = fixed_size or ('height', 'width')
    shape = f'{batch}, {height}, {width}'
    image = f'float32 ({batch}, 3, {height}, {width}), normalised'
    if deployed.colours is not None:
        image = f'uint8 ({shape}, 3), {deployed.colours.upper()}'
    channels = deployed.network.out_channels
    output = f'scores float32 ({batch}, {channels}, {height}, {width})'
    if deployed.labels:
        output = f'labels int32 ({shape})'
    return f'image {image} -> {output}'
