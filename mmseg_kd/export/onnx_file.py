"""ONNX files: written from a graph of torch.export, and run by onnxruntime."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from mmseg_kd.errors import ExportError
from mmseg_kd.export.export_module import ExportModule

# The newest version that every runtime of the last years reads.
OPSET = 18


def require_onnx() -> None:
    """See that what the extra `export` installs is there.

    Raises:
        ExportError: It is not.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ExportError(
            f'--to onnx needs the package {error.name!r}, which is not installed: '
            "pip install 'mmseg-kd[export]'."
        ) from error


def onnx_bytes(program: ExportedProgram, deployed: ExportModule, meta: Mapping[str, str]) -> bytes:
    """An ONNX file of a graph, with the input `image` and the output `scores` or `labels`.

    Args:
        program: The graph.
        deployed: What it is the graph of.
        meta: Texts that the file carries along.

    Raises:
        ExportError: ONNX lacks an operation; the layer that has it is named.
    """
    import onnx

    output = 'labels' if deployed.labels else 'scores'
    try:
        with _quiet():
            exported = torch.onnx.export(
                program,
                input_names=['image'],
                output_names=[output],
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise ExportError(_explain(error, program)) from error
    assert exported is not None
    model = exported.model_proto
    _name_axes(model, deployed.axes())
    onnx.helper.set_model_props(model, dict(meta))
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


class OnnxModel:
    """An ONNX file as a function of one tensor.

    Args:
        source: The file, or what is in it.

    Raises:
        ExportError: onnxruntime cannot run it.
    """

    def __init__(self, source: Path | bytes) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        # As many as PyTorch, so that both can be timed.
        options.intra_op_num_threads = torch.get_num_threads()
        # Its errors are raised, and need not be printed as well.
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(
                source, options, providers=['CPUExecutionProvider']
            )
        except Exception as error:  # onnxruntime has a class of its own for each status
            raise ExportError(f'onnxruntime cannot run the exported file: {error}') from error

    def __call__(self, image: Tensor) -> Tensor:
        """Run it."""
        [output] = self._session.run(None, {'image': image.numpy()})
        return torch.from_numpy(output)


def _name_axes(model: Any, axes: Mapping[str, int]) -> None:
    """Give the dimensions that vary their names, wherever they occur."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    names = {dims[axis].dim_param: name for name, axis in axes.items() if dims[axis].dim_param}
    graph = model.graph
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in names:
                dim.dim_param = names[dim.dim_param]


def _explain(error: Exception, program: ExportedProgram) -> str:
    """Which operation of which layers is not translated, and what to do."""
    chain: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        chain.append(str(cause))
        cause = cause.__cause__
    advice = (
        'Put a layer of other operations in its place (model.... in --cfg-options, then train), or '
        'export --to torch_export, which has every operation of PyTorch.'
    )
    missing = re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)'", '\n'.join(chain))
    if missing is None:
        return f'the network cannot be written as ONNX: {chain[-1].splitlines()[0]} {advice}'
    layers = _layers_with(missing[1], program)
    where = f'layer {", ".join(map(repr, layers))}' if layers else 'the network'
    return f'{where} has the operation {missing[1]}, which ONNX lacks. {advice}'


def _layers_with(operation: str, program: ExportedProgram) -> list[str]:
    """The innermost layers that have an operation, before or after it is taken to pieces."""
    found: dict[str, None] = {}
    for graph in (program.graph, program.run_decompositions().graph):
        for node in graph.nodes:
            stack = node.meta.get('nn_module_stack')
            if stack and f'{node.target}'.startswith(f'{operation}.'):
                path, _ = list(stack.values())[-1]
                found[path.removeprefix('network.')] = None
    return list(found)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter tells of its own passes."""
    loggers = [logging.getLogger(name) for name in ('onnxscript', 'onnx_ir', 'torch.onnx')]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
