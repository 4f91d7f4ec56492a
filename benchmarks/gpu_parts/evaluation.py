"""Images a second of an evaluation: mmseg's prediction and metric against the fast ones."""

from __future__ import annotations

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

from gpu_parts.part import Part
from gpu_parts.timing import NO_MEMORY, has_time, measured, prepare
from mmseg_kd.evaluation import FastIoUMetric, lean_prediction

Way = Callable[[], Any]

# The most important first: what follows the head in three sizes, then with a network, then others.
FIRST = (
    Row('-', 'scene', 150, 512, 512),
    Row('-', 'scene', 19, 1024, 2048),
    Row('-', 'scene', 847, 512, 512),
)
ORDER = sorted(
    ROWS,
    key=lambda row: (row not in FIRST, row.network == '-', row.scores, row.classes * row.width),
)
TINY = (
    Row('-', 'scene', 19, 64, 80),
    Row('-', 'noise', 150, 32, 64),
    Row('SegFormer-B0', 'scene', 19, 64, 64),
)

# How long a row may be timed.
ROW_S = 1.2
PIECE_S = 0.5


def run(part: Part) -> None:
    prepare(part)
    rows = TINY if part.rehearse else ORDER
    for row in rows:
        name = f'{row.network}, {row.scores}, {row.classes}x{row.height}x{row.width}'
        if has_time(part, 8, name):
            with part.check(f'equal counts of {name}'):
                time_row(part, row)
            free_memory()
        if row == rows[min(2, len(rows) - 1)]:
            time_pieces(part, rows[:2])


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
                ways = dict(zip(WAYS, make_ways(part, row, scores, label), strict=True))
                found = measured(part, ways, PIECE_S)
                told = {f'{way}, ms': one.seconds * 1e3 for way, one in found.items()}
                part.row('evaluation, piece by piece', piece=name, **told)
            free_memory()


def predictions(part: Part, row: Row, scores: Tensor, label: Tensor) -> list[Way]:
    """mmseg's scaling and arg max, and the lean one."""
    network = make_network(replace(row, network='-'), scores.to(part.device), part.device)
    size = (row.height, row.width)
    inputs = torch.zeros(1, 3, *size, device=part.device)
    meta = dict(img_shape=size, ori_shape=size)

    def predict(way: Any) -> None:
        way(network, inputs, [SegDataSample(metainfo=meta)])

    return [lambda: predict(EncoderDecoder.predict), lambda: predict(lean_prediction.predict)]


def counts(part: Part, row: Row, scores: Tensor, label: Tensor) -> list[Way]:
    """mmseg's counts of an image, and the fast ones."""
    label = label[0].to(part.device)
    # Wrong along the borders of the blobs, as predictions are.
    predicted = label.roll(3, 1).clamp(0, row.classes - 1)
    ignored = int(label[0, 0])
    given = predicted, label, row.classes, ignored
    return [
        lambda: IoUMetric.intersect_and_union(*given),
        lambda: FastIoUMetric.intersect_and_union(*given),
    ]


def copies(part: Part, row: Row, scores: Tensor, label: Tensor) -> list[Way]:
    """Labels in 64 bits, as mmseg packs them, and in 8."""
    narrow = label.to(torch.uint8)
    return [lambda: label.to(part.device, copy=True), lambda: narrow.to(part.device, copy=True)]


def forwards(part: Part, row: Row, scores: Tensor, label: Tensor) -> list[Way]:
    """A network alone: with every kernel launched by Python, and all at once."""
    row = replace(row, network='SegFormer-B0')
    network = make_network(row, scores.to(part.device), part.device)
    inputs = torch.zeros(1, 3, row.height, row.width, device=part.device)

    def forward() -> None:
        network.decode_head(network.extract_feat(inputs))

    if part.device == 'cpu':
        return [forward, forward]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            forward()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        forward()
    return [forward, graph.replay]


PIECES = {
    'scaling and arg max': predictions,
    'counts': counts,
    'labels to the device, int64 and uint8': copies,
    'SegFormer-B0, as it is and in a CUDA graph': forwards,
}
