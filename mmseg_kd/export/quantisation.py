"""ONNX files with 8-bit integers, by onnxruntime's quantisation."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mmseg_kd.checkpoints.save import atomic_write
from mmseg_kd.errors import ExportError

# Not convolutions: with ranges found as it runs, onnxruntime computes those slower than with
# floats and far off (a MobileNetV2 fell from 61 to 11 mIoU).
DYNAMIC_OPERATIONS = ['MatMul', 'Gemm']


def quantise(source: Path, target: Path, mode: str, calibration: Sequence[Tensor] = ()) -> None:
    """Write a copy of an ONNX file whose layers compute with 8-bit integers.

    Args:
        source: The file with floats.
        mode: 'static': convolutions and matrix products, the range of their activations being
            found once, on the calibration inputs. 'dynamic': matrix products alone, as those of
            transformers, their ranges being found as they run.
        calibration: Inputs of the network, of any sizes.

    Raises:
        ExportError: 'static' without calibration inputs, 'dynamic' for a network of convolutions,
            or onnxruntime fails.
        CheckpointError: The file cannot be written.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    if mode == 'static' and not calibration:
        raise ExportError('--int8 static: expected calibration images, got none.')

    class Inputs(CalibrationDataReader):
        """The calibration inputs, one by one."""

        def __init__(self) -> None:
            self._left = iter(calibration)

        def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
            image = next(self._left, None)
            return None if image is None else {'image': image.numpy()}

    logger = logging.getLogger()
    level = logger.level
    # It advises on steps that are taken here.
    logger.setLevel(logging.ERROR)
    try:
        with tempfile.TemporaryDirectory() as folder:
            prepared, quantised = (Path(folder) / name for name in ('prepared.onnx', 'int8.onnx'))
            quant_pre_process(source, prepared, skip_symbolic_shape=True)
            if mode == 'dynamic':
                quantize_dynamic(
                    prepared,
                    quantised,
                    op_types_to_quantize=DYNAMIC_OPERATIONS,
                    weight_type=QuantType.QInt8,
                    per_channel=True,
                )
                _check_dynamic(quantised)
            else:
                quantize_static(
                    prepared,
                    quantised,
                    Inputs(),
                    quant_format=QuantFormat.QDQ,
                    activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8,
                    per_channel=True,
                )
            content = quantised.read_bytes()
    except ExportError:
        raise
    except Exception as error:  # onnxruntime's own have no base of theirs
        raise ExportError(
            f'onnxruntime cannot quantise the network ({type(error).__name__}: {error}); export it '
            'without --int8, or try the other of dynamic and static.'
        ) from error
    finally:
        logger.setLevel(level)
    with atomic_write(target) as unfinished:
        unfinished.write_bytes(content)


def _check_dynamic(path: Path) -> None:
    """See that something computes with integers."""
    import onnx

    if not any(node.op_type == 'MatMulInteger' for node in onnx.load(path).graph.node):
        raise ExportError(
            '--int8 dynamic: expected matrix products, as transformers have them, got a network of '
            'convolutions; take --int8 static.'
        )
