"""Exported networks, and how far they agree with the one they were made from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from mmseg_kd.checkpoints.read import first_line
from mmseg_kd.errors import ExportError

# What rounding in another order may do: to a score, as a share of the largest, and to labels.
SCORE_TOLERANCE = 1e-3
LABEL_TOLERANCE = 1e-3

Function = Callable[[Tensor], Tensor]


# What most often is behind it: numbers of windows or bins that were taken for constants.
ADVICE = (
    'Where the work of a layer depends on the number or the size of images, --one-image exports '
    'the network for one image and --fixed-size HEIGHT WIDTH for one size.'
)


@dataclass(frozen=True)
class Agreement:
    """What a comparison on some images found.

    Attributes:
        images: How many.
        difference: The largest between two scores; None where labels are put out.
        scale: The largest score in absolute value; None likewise.
        labels: Share of the pixels with the same label, 0 to 1.
    """

    images: int
    difference: float | None
    scale: float | None
    labels: float

    def __str__(self) -> str:
        scores = ''
        if self.difference is not None:
            scores = f'largest logit difference {self.difference:.2e} of {self.scale:.3g}, '
        return f'{self.images} images: {scores}{self.labels:.4%} of the labels agree'

    def check(self, what: str) -> None:
        """See that only rounding stands between the two.

        Raises:
            ExportError: More does.
        """
        scale = self.scale or 0.0
        is_close = self.difference is None or self.difference <= SCORE_TOLERANCE * scale
        if not is_close or self.labels < 1 - LABEL_TOLERANCE:
            raise ExportError(
                f'{what}: expected what PyTorch computes, to rounding, got {self}. {ADVICE}'
            )


@dataclass(frozen=True)
class ExportedFile:
    """A file that a network was exported to.

    Attributes:
        path: Where it is.
        agreement: How far what it computes agrees with PyTorch.
        function: A graph as a function from an input to scores or labels; None for weights.
        miou: In percent on the test split; None: not measured.
    """

    path: Path
    agreement: Agreement
    function: Function | None = field(default=None, repr=False)
    miou: float | None = None


@torch.no_grad()
def compare(reference: Function, exported: Function, inputs: Iterable[Tensor]) -> Agreement:
    """Run two networks on the same inputs.

    Args:
        reference, exported: From an input to scores (N, C, H, W), or to labels (N, H, W).
        inputs: At least one.

    Raises:
        ExportError: The exported one fails, puts out another shape, or scores that are not finite
            where the reference's are.
    """
    images = pixels = agreeing = 0
    difference = scale = 0.0
    has_scores = False
    for image in inputs:
        expected = reference(image)
        try:
            got = exported(image)
        except Exception as error:  # every runtime has errors of its own
            reason = first_line(error).rstrip('.')
            raise ExportError(
                f'the exported network fails on an input of {tuple(image.shape)}: '
                f'{type(error).__name__}: {reason}. {ADVICE}'
            ) from error
        if expected.shape != got.shape:
            raise ExportError(
                f'expected an output of {tuple(expected.shape)} for an input of '
                f'{tuple(image.shape)}, got {tuple(got.shape)}.'
            )
        has_scores = expected.ndim == 4
        if has_scores:
            if expected.isfinite().all() and not got.isfinite().all():
                raise ExportError('expected finite scores, got NaN or infinity.')
            difference = max(difference, float((expected - got).abs().max()))
            scale = max(scale, float(expected.abs().max()))
            expected, got = _labels(expected), _labels(got)
        images += len(expected)
        pixels += expected.numel()
        agreeing += int((expected == got).sum())
    return Agreement(
        images,
        difference if has_scores else None,
        scale if has_scores else None,
        agreeing / pixels,
    )


def _labels(scores_NCHW: Tensor) -> Tensor:
    return scores_NCHW.argmax(1) if scores_NCHW.shape[1] > 1 else scores_NCHW > 0
