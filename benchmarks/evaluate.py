"""Images per second of an evaluation: mmseg's prediction and IoUMetric against the fast ones.

    python benchmarks/evaluate.py [--rounds 5] [--json evaluate.json]

| scores | what the head gives |
| --- | --- |
| scene | twelve classes in blobs, the others below them: most of them win nowhere, as in a photo |
| noise | noise alone: every class wins somewhere, the worst case |

Rows without a network measure what follows the head: scaling to the size of the image, arg max and
counts, from scores and labels on the device. Rows with SegFormer-B0 run all of it, from the image
and the labels as a loader gives them (with random weights, and the scores put in the place of its
own). Both ways run in turns, each in a process of its own; a third
process compares their counts. Memory is the peak above what the network and the scores need.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mmseg
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn
from turns import Measured, device_name, measure

import mmseg_kd.register
from mmseg_kd.config.load import load_config
from mmseg_kd.evaluation import FastIoUMetric, use_lean_prediction
from mmseg_kd.networks.build import replace_sync_bn, without_initialisation

CONFIG = 'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py'
CLASSES = (19, 150, 847)
SIZES = ((512, 512), (512, 683), (1024, 2048))
WAYS = ('mmseg', 'fast')
RATIO = 4
BLOBS = 12


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    network: str
    scores: str
    classes: int
    height: int
    width: int

    @property
    def mmseg_bytes(self) -> int:
        """What mmseg's way holds at its peak: the scores at full size twice, and what scales."""
        return 3 * 4 * self.classes * self.height * self.width


ROWS = (
    *(Row('-', 'scene', classes, *size) for classes in CLASSES for size in SIZES),
    Row('-', 'noise', 19, 1024, 2048),
    Row('-', 'noise', 150, 512, 512),
    Row('SegFormer-B0', 'scene', 150, 512, 512),
    Row('SegFormer-B0', 'scene', 150, 512, 683),
    Row('SegFormer-B0', 'scene', 19, 1024, 2048),
)


class StoredScores(BaseDecodeHead):
    """A head that gives the scores it was given."""

    scores: Tensor

    def forward(self, inputs: Any) -> Tensor:
        return self.scores


def make_scores(row: Row) -> tuple[Tensor, Tensor]:
    """Scores (1, C, h, w) of a head, and labels (1, H, W) with 255 (C above 255: -1) in places."""
    size = (-(-row.height // RATIO), -(-row.width // RATIO))
    scores = torch.randn(1, row.classes, *size)
    label = torch.randint(row.classes, (1, row.height, row.width))
    if row.scores == 'scene':
        # Distances as the CamVid networks have them.
        scores -= 3
        present = torch.randperm(row.classes)[:BLOBS]
        blobs = present[torch.randint(len(present), (1, 1, 6, 8))]
        for one in present.tolist():
            blob = F.interpolate((blobs == one).float(), size, mode='bilinear')
            scores[:, one] += 3 + 8 * blob[:, 0]
        label = F.interpolate(blobs.float(), (row.height, row.width))[:, 0].long()
    label[:, : row.height // 50] = 255 if row.classes < 255 else -1
    return scores, label


def make_network(row: Row, scores: Tensor, device: str) -> Any:
    """An EncoderDecoder whose head gives `scores`."""
    if row.network == '-':
        head = dict(type=StoredScores, in_channels=1, channels=1, num_classes=row.classes)
        model = dict(type='EncoderDecoder', backbone=dict(type=nn.Identity), decode_head=head)
        model = ConfigDict(**model, test_cfg=dict(mode='whole'))
        network = MODELS.build(model).to(device).eval()
        network.decode_head.scores = scores
        return network
    options = {'model.decode_head.num_classes': row.classes, 'model.data_preprocessor.size': None}
    model = load_config(CONFIG, options).model
    network = MODELS.build(replace_sync_bn(without_initialisation(model))).to(device).eval()
    # A hook does not do: mmseg calls `forward` of a head.
    own = network.decode_head.forward

    def forward(inputs: Any) -> Tensor:
        assert own(inputs).shape == scores.shape
        return scores

    network.decode_head.forward = forward
    return network


def make(way: str, row: Row) -> Callable[[], None]:
    """A function that evaluates one image."""
    return make_evaluation(way, row, *make_scores(row))[0]


def make_evaluation(
    way: str, row: Row, scores: Tensor, label: Tensor
) -> tuple[Callable[[], None], Any]:
    """A function that evaluates one image, and its metric."""
    MMLogger.get_current_instance().setLevel('ERROR')
    init_default_scope('mmseg')
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    network = make_network(row, scores.to(device), device)
    if way == 'fast':
        assert use_lean_prediction(network)
    ignore_index = int(label[0, 0, 0])
    kind = FastIoUMetric if way == 'fast' else mmseg.evaluation.IoUMetric
    metric = kind(ignore_index=ignore_index)
    evaluator = Evaluator(metric)
    evaluator.dataset_meta = dict(classes=[str(index) for index in range(row.classes)])
    image = torch.randint(0, 256, (3, row.height, row.width), dtype=torch.uint8)
    size = (row.height, row.width)
    if row.network == '-':
        # What comes before is no part of such a row.
        image, label = image.to(device), label.to(device)
    elif way == 'fast' and row.classes < 256:
        # As `PackByteLabels` leaves them.
        label = label.to(torch.uint8)

    @torch.no_grad()
    def run() -> None:
        sample = SegDataSample(metainfo=dict(img_shape=size, ori_shape=size, img_path=''))
        sample.gt_sem_seg = PixelData(data=label)
        batch = dict(inputs=[image], data_samples=[sample])
        if row.network == '-':
            outputs = network.predict(image[None], [sample])
        else:
            outputs = network.test_step(batch)
        evaluator.process(data_samples=outputs, data_batch=batch)

    return run, metric


def have_equal_counts(slow: Any, fast: Any) -> bool:
    """Whether mmseg's metric and the fast one counted the same pixels in their first image."""
    intersect, _, predicted, annotated = slow.results[0]
    found = torch.stack([intersect, predicted, annotated]).long()
    return torch.equal(found, fast.results[0].long().cpu())


def check_counts(row: Row) -> bool:
    """Whether both ways count the same; to be run in a process of its own."""
    torch.set_num_threads(1)
    scores, label = make_scores(row)
    metrics = []
    for way in WAYS:
        run, metric = make_evaluation(way, row, scores, label)
        run()
        metrics.append(metric)
    return have_equal_counts(*metrics)


def fits(row: Row) -> bool:
    """Whether mmseg's way has the memory that it needs."""
    if torch.cuda.is_available():
        return row.mmseg_bytes < torch.cuda.mem_get_info()[0]
    return row.mmseg_bytes < os.sysconf('SC_AVPHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')


def line(row: Row, found: dict[str, Measured]) -> str:
    """The row of the table."""
    fast, slow = found['fast'], found.get('mmseg')
    cells = [row.network, row.scores, str(row.classes), f'{row.height}x{row.width}']
    if slow is None:
        cells += ['-', f'{1 / fast.seconds:.2f}', '-', '-', f'{fast.mib:.0f}']
    else:
        cells += [f'{1 / one.seconds:.2f}' for one in (slow, fast)]
        cells += [f'{slow.seconds / fast.seconds:.2f}', f'{slow.mib:.0f}', f'{fast.mib:.0f}']
    return f'| {" | ".join(cells)} |'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument('--classes', type=int, nargs='+', default=CLASSES, help='only these rows')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the figures there too')
    args = parser.parse_args()
    print(f'{device_name()}, {args.threads} threads, {args.rounds} rounds, one image at a time')
    print(
        f'mmseg_kd {mmseg_kd.__version__}, mmseg {mmseg.__version__}, torch {torch.__version__}\n'
    )
    print('| network | scores | classes | image | mmseg / s | fast / s | times | MiB | MiB fast |')
    print('| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |')
    rows = []
    for row in (one for one in ROWS if one.classes in args.classes):
        ways = WAYS if fits(row) else ('fast',)
        if len(ways) == 2:
            with multiprocessing.get_context('spawn').Pool(1) as pool:
                if not pool.apply(check_counts, (row,)):
                    raise SystemExit(f'{row}: the counts differ.')
        found = measure({way: (make, way, row) for way in ways}, args.rounds, args.threads)
        print(line(row, found), flush=True)
        rows.append({**asdict(row), **{way: asdict(one) for way, one in found.items()}})
    if args.json is not None:
        report = dict(device=device_name(), threads=args.threads, rows=rows)
        args.json.write_text(json.dumps(report, indent=2) + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
