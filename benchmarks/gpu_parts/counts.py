"""Whether an evaluation on a GPU counts what mmseg's counts."""

from __future__ import annotations

from typing import Any

import evaluate
import mmseg
import torch
from builders import CLASSES, build, resnet
from mmengine.evaluator import Evaluator
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor

from gpu_parts.part import Part
from mmseg_kd.evaluation import FastIoUMetric, use_lean_prediction

ROWS = (
    evaluate.Row('-', 'scene', 150, 512, 683),
    evaluate.Row('-', 'noise', 150, 512, 512),
    evaluate.Row('-', 'scene', 19, 1024, 2048),
    evaluate.Row('-', 'scene', 847, 512, 512),
)
SMALL_ROWS = (evaluate.Row('-', 'scene', 19, 96, 128), evaluate.Row('-', 'noise', 7, 256, 128))


def check(part: Part) -> None:
    """Both ways count the same pixels, from scores in memory and with a network."""
    check_scores(part)
    side = 192 if part.rehearse else 512
    window = dict(mode='slide', crop_size=(side // 2, side // 2), stride=(side // 3, side // 3))
    for mode, test_cfg in (('whole', dict(mode='whole')), ('slide', window)):
        with part.check(f'counts of a network, {mode}, are those of IoUMetric') as figures:
            figures['pixels'] = _check_network(part, test_cfg, side)


def check_scores(part: Part, how: str = '') -> None:
    """From scores in memory."""
    for row in SMALL_ROWS if part.rehearse else ROWS:
        name = f'{row.scores}, {row.classes} classes, {row.height}x{row.width}{how}'
        with part.check(f'counts of {name}, are those of IoUMetric'):
            assert evaluate.check_counts(row), 'the counts differ'


def _check_network(part: Part, test_cfg: dict[str, Any], side: int) -> int:
    counts = []
    for is_fast in (False, True):
        network = build(resnet(8, test_cfg=test_cfg)).to(part.device).eval()
        # Scores of a network that was just initialised are all but equal.
        torch.nn.init.normal_(network.decode_head.conv_seg.weight)
        if is_fast:
            assert use_lean_prediction(network)
        metric: Any = FastIoUMetric() if is_fast else mmseg.evaluation.IoUMetric()
        evaluator = Evaluator(metric)
        evaluator.dataset_meta = dict(classes=[str(index) for index in range(CLASSES)])
        generator = torch.Generator().manual_seed(0)
        for size in ((side, side + side // 4), (side, side)):
            data = _image((side, side), size, generator)
            with torch.no_grad():
                evaluator.process(data_samples=network.test_step(data), data_batch=data)
        counts.append(metric.results)
    plain, fast = counts
    for (intersect, _, predicted, annotated), ours in zip(plain, fast, strict=True):
        theirs = torch.stack([intersect, predicted, annotated]).long()
        assert torch.equal(theirs, ours.long().cpu()), (theirs, ours)
        # More than one class is predicted: the comparison says something.
        assert (theirs[1] > 0).sum() > 1, theirs
    return int(sum(annotated.sum() for *_, annotated in plain))


def _image(
    size: tuple[int, int], original: tuple[int, int], generator: torch.Generator
) -> dict[str, Any]:
    """An image of one size, and its mask at the size that it was loaded with."""
    image = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
    label: Tensor = torch.randint(0, CLASSES, (1, *original), generator=generator)
    label[:, : original[0] // 10] = 255
    sample = SegDataSample(metainfo=dict(img_shape=size, ori_shape=original, img_path=''))
    sample.gt_sem_seg = PixelData(data=label)
    return dict(inputs=[image], data_samples=[sample])
