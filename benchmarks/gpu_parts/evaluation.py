"""An evaluation: its arg max to the last bit, and images a second against mmseg's."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from evaluate import (
    ROWS,
    WAYS,
    Row,
    fits,
    have_equal_counts,
    make_evaluation,
    make_network,
    make_scores,
)
from mmseg.evaluation.metrics import IoUMetric
from mmseg.models.segmentors import EncoderDecoder
from mmseg.structures import SegDataSample
from torch import Tensor
from turns import free_memory

from gpu_parts.part import NotHereError, Part
from gpu_parts.timing import NO_MEMORY, has_time, measured, prepare
from mmseg_kd.evaluation import FastIoUMetric, lean_prediction, triton_arg_max
from mmseg_kd.evaluation.scaling import Scaling

Way = Callable[[], Any]

# Of what follows the head, the most important.
FIRST = (
    Row('-', 'scene', 150, 512, 512),
    Row('-', 'scene', 19, 1024, 2048),
    Row('-', 'scene', 847, 512, 512),
)
ORDER = (*FIRST, *(row for row in ROWS if row not in FIRST))
TINY = (
    Row('-', 'scene', 19, 64, 80),
    Row('-', 'noise', 150, 32, 64),
    Row('SegFormer-B0', 'scene', 19, 64, 64),
)

# Of scores, of the network's input and of the image; not all are made twice as large in a row.
SHAPES = (
    ((16, 13), (64, 52), (64, 52)),
    ((16, 13), (61, 49), (44, 51)),
    ((128, 171), (512, 683), (683, 911)),
    ((65, 129), (513, 1025), (513, 1025)),
    ((97, 90), (31, 77), (500, 375)),
)
EXTREMES = (torch.nan, torch.inf, -torch.inf)

# How long a row may be timed.
ROW_S = 1.2
PIECE_S = 0.5


def run(part: Part) -> None:
    prepare(part)
    compare_bits(part)
    rows = TINY if part.rehearse else ORDER
    first = [row for row in rows if row.network == '-'][: len(FIRST)]
    first += [row for row in rows if row.network != '-']
    time_rows(part, first)
    time_pieces(part, first[:2])
    time_rows(part, [row for row in rows if row not in first])


@torch.no_grad()
def compare_bits(part: Part) -> None:
    """The kernel's scores have the bits of torch's, whatever the scores and the sizes."""
    for align_corners in (False, True):
        name = f'scores scaled in a kernel, to the last bit, align_corners={align_corners}'
        with part.check(name) as told:
            if triton_arg_max.triton is None:
                raise NotHereError('Triton')
            try:
                told['pixels'] = compared_pixels(part, align_corners)
            except Exception as error:
                if 'only 0-dimensional arrays can be converted' in str(error):
                    raise NotHereError('a Triton whose interpreter knows this NumPy') from error
                raise


def compared_pixels(part: Part, align_corners: bool) -> int:
    """How many pixels were compared; raises where one differs."""
    generator = torch.Generator().manual_seed(0)
    pixels = 0
    flips = (None,) if part.rehearse else (None, 'horizontal', 'vertical')
    paddings = ((0, 0, 0, 0), (1, 2, 3, 4))
    shapes = SHAPES[:2] if part.rehearse else SHAPES
    for shape, padding, flip in itertools.product(shapes, paddings, flips):
        size, input_size, original_size = shape
        scaling = Scaling(size, input_size, padding, flip, original_size, align_corners)
        scores = torch.randn(1, 7, *size, generator=generator)
        scores[0, 1, 2, 2], scores[0, 3, 4, 4], scores[0, 5, 6, 6] = EXTREMES
        scores = scores.to(part.device)
        expected = scaling(scores)[0].max(0)
        label, best = triton_arg_max.arg_max(scores, scaling)
        # A CPU rounds in another way.
        rtol = 1e-4 if part.rehearse else 0.0
        torch.testing.assert_close(best, expected.values, rtol=rtol, atol=rtol, equal_nan=True)
        if not part.rehearse:
            assert torch.equal(label, expected.indices), scaling
            assert triton_arg_max.can_take(scores, scaling)
        pixels += label.numel()
    return pixels


def time_rows(part: Part, rows: Sequence[Row]) -> None:
    for row in rows:
        name = f'{row.network}, {row.scores}, {row.classes}x{row.height}x{row.width}'
        if has_time(part, 8, name):
            with part.check(f'equal counts of {name}'):
                time_row(part, row)
            free_memory()


def time_row(part: Part, row: Row) -> None:
    """One row; both ways must count the same."""
    ways = WAYS if fits(row) else ('fast',)
    scores, label = make_scores(row)
    runs, metrics = {}, {}
    for way in ways:
        runs[way], metrics[way] = make_evaluation(way, row, scores, label)
    found = measured(part, runs, ROW_S)
    rates = {
        f'{way}, images/s': 1 / found[way].seconds if way in found else NO_MEMORY for way in WAYS
    }
    told = dict(network=row.network, scores=row.scores, classes=row.classes)
    told |= {'image': f'{row.height}x{row.width}', **rates}
    if found.keys() >= set(WAYS):
        told['times'] = found['mmseg'].seconds / found['fast'].seconds
    told |= {f'{way}, MiB': found[way].mib for way in found}
    part.row('evaluation', **told)
    if found.keys() >= set(WAYS):
        assert have_equal_counts(metrics['mmseg'], metrics['fast']), 'the counts differ'


@torch.no_grad()
def time_pieces(part: Part, rows: Sequence[Row]) -> None:
    """Where the time of an image goes."""
    for row in rows:
        scores, label = make_scores(row)
        for piece, make_ways in PIECES.items():
            name = f'{piece}, {row.classes}x{row.height}x{row.width}'
            if not has_time(part, 6, name):
                continue
            with part.check(f'time of {name}'):
                found = measured(part, make_ways(part, row, scores, label), PIECE_S)
                for way, one in found.items():
                    told = dict(piece=name, way=way, ms=one.seconds * 1e3)
                    part.row('evaluation, piece by piece', **told)
            free_memory()


def predictions(part: Part, row: Row, scores: Tensor, label: Tensor) -> dict[str, Way]:
    """mmseg's scaling and arg max, and the lean one."""
    network = make_network(replace(row, network='-'), scores.to(part.device), part.device)
    size = (row.height, row.width)
    inputs = torch.zeros(1, 3, *size, device=part.device)
    meta = dict(img_shape=size, ori_shape=size)

    def mmseg() -> Tensor:
        [sample] = EncoderDecoder.predict(network, inputs, [SegDataSample(metainfo=meta)])
        return sample.pred_sem_seg.data[0]

    def fast() -> Tensor:
        [sample] = lean_prediction.predict(network, inputs, [SegDataSample(metainfo=meta)])
        return sample.pred_sem_seg.data[0]

    scores_1Chw = network.decode_head.scores
    scaling = Scaling(scores_1Chw.shape[-2:], size, (0, 0, 0, 0), None, size, False)
    at_once = max(1, lean_prediction.PIECE // (row.height * row.width))

    def pieces() -> Tensor:
        return lean_prediction.arg_max_in_pieces(scores_1Chw, scaling, at_once)

    label_HW = mmseg()
    assert torch.equal(fast(), label_HW)
    if min(size) > lean_prediction.SMALL or part.device == 'cuda':
        assert torch.equal(pieces(), label_HW)
    return {'mmseg': mmseg, 'fast': fast, 'in pieces, without a kernel': pieces}


def counts(part: Part, row: Row, scores: Tensor, label: Tensor) -> dict[str, Way]:
    """mmseg's counts of an image, and the fast ones."""
    label = label[0].to(part.device)
    # Wrong along the borders of the blobs, as predictions are.
    predicted = label.roll(3, 1).clamp(0, row.classes - 1)
    ignored = int(label[0, 0])
    given = predicted, label, row.classes, ignored
    return {
        'mmseg': lambda: IoUMetric.intersect_and_union(*given),
        'fast': lambda: FastIoUMetric.intersect_and_union(*given),
    }


def copies(part: Part, row: Row, scores: Tensor, label: Tensor) -> dict[str, Way]:
    """Labels in 64 bits, as mmseg packs them, and in 8."""
    narrow = label.to(torch.uint8)
    return {
        'int64': lambda: label.to(part.device, copy=True),
        'uint8': lambda: narrow.to(part.device, copy=True),
    }


def forwards(part: Part, row: Row, scores: Tensor, label: Tensor) -> dict[str, Way]:
    """A network alone: with every kernel launched by Python, and all at once."""
    row = replace(row, network='SegFormer-B0')
    network = make_network(row, scores.to(part.device), part.device)
    inputs = torch.zeros(1, 3, row.height, row.width, device=part.device)

    def forward() -> None:
        network.decode_head(network.extract_feat(inputs))

    if part.device == 'cpu':
        return {'as it is': forward}
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            forward()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            forward()
    except RuntimeError as error:
        # What a graph would bring is asked here, and nothing relies on one.
        part.note(f'no CUDA graph of SegFormer-B0: {error}')
        return {'as it is': forward}
    return {'as it is': forward, 'in a CUDA graph': graph.replay}


PIECES = {
    'scaling and arg max': predictions,
    'counts': counts,
    'labels to the device': copies,
    'SegFormer-B0': forwards,
}
