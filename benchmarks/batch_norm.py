"""What images without masks do through batch norm.

    python benchmarks/batch_norm.py CONFIG CHECKPOINT [--split val]

CONFIG trains on a MixedDataset. mIoU is measured with the statistics that the student in CHECKPOINT
has, and with those of images of each data set and of all of them, taken anew. Where it hangs on
whose they are, the student has learnt to tell the data sets apart by their being in one batch.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import update_bn

import mmseg_kd.register  # noqa: F401
from mmseg_kd.config.load import load_config
from mmseg_kd.data_checks.preflight import build_dataset
from mmseg_kd.engine.testing import MeasuringOptions, prepare_test
from mmseg_kd.networks.build import student_of

BATCH_SIZE, BATCHES = 8, 16


def shuffled(dataset: Any) -> list[Tensor]:
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0)).tolist()
    return [dataset[index]['inputs'] for index in order[: BATCH_SIZE * BATCHES]]


def batches(network: Any, images: Sequence[Tensor]) -> Iterator[Tensor]:
    for start in range(0, len(images) - BATCH_SIZE + 1, BATCH_SIZE):
        batch = dict(inputs=list(images[start : start + BATCH_SIZE]))
        yield network.data_preprocessor(batch, False)['inputs']


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('--split', choices=('test', 'val'), default='test', help='whose images')
    args = parser.parse_args()

    cfg = load_config(args.config, {'work_dir': 'work_dirs/batch_norm'})
    options = MeasuringOptions(split=args.split, plain_eval=True)
    runner = prepare_test(cfg, args.checkpoint, options)
    network: Any = student_of(runner.model)
    learnt = copy.deepcopy(network.state_dict())
    pipeline = cfg.val_dataloader.dataset.pipeline
    found = [
        shuffled(build_dataset({**one, 'pipeline': pipeline}, 'train'))
        for one in cfg.train_dataloader.dataset.datasets
    ]
    sources = {f'of data set {number}': images for number, images in enumerate(found, 1)}
    together = chain.from_iterable(zip(*found, strict=False))
    sources['of all, in equal parts'] = [*islice(together, BATCH_SIZE * BATCHES)]

    lines = ['| statistics | mIoU |', '| --- | ---: |']
    lines.append(f'| as trained | {runner.test()["mIoU"]:.2f} |')
    for name, images in sources.items():
        network.load_state_dict(learnt)
        update_bn(batches(network, images), network)
        lines.append(f'| {name} | {runner.test()["mIoU"]:.2f} |')
    print('\n'.join(lines))


if __name__ == '__main__':
    main()
