"""What the wrapper costs: a training step without terms against the plain student's.

    python benchmarks/wrapper_overhead.py [--rounds 30]

Both steps run on the same batch in turns; the median of each and their ratio are printed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import mmseg
import torch
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

import mmseg_kd.register
from mmseg_kd.config.load import load_config
from mmseg_kd.config.network_spec import parse_network
from mmseg_kd.networks.build import replace_sync_bn, without_initialisation

CONFIG = 'distillation_configs/example_config.py'


def make_batch(n: int, size: int, classes: int) -> dict[str, Any]:
    samples = []
    for _ in range(n):
        sample = SegDataSample()
        sample.gt_sem_seg = PixelData(data=torch.randint(0, classes, (1, size, size)))
        samples.append(sample)
    images = [torch.randint(0, 256, (3, size, size), dtype=torch.uint8) for _ in range(n)]
    return dict(inputs=images, data_samples=samples)


def copy_batch(batch: dict[str, Any]) -> dict[str, Any]:
    return dict(
        inputs=list(batch['inputs']), data_samples=[s.clone() for s in batch['data_samples']]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--config', default=CONFIG)
    parser.add_argument('--batch', type=int, default=2)
    parser.add_argument('--size', type=int, default=256)
    parser.add_argument('--rounds', type=int, default=20)
    args = parser.parse_args()
    MMLogger.get_current_instance().setLevel('ERROR')
    init_default_scope('mmseg')
    spec = parse_network(load_config(args.config, None).model.student, 'student')
    model = replace_sync_bn(without_initialisation(spec.model))
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    networks = {
        'plain': MODELS.build(model),
        'wrapper': MODELS.build(dict(type='DistillationWrapper', student=model, distillation=[])),
    }
    steps = {}
    for name, network in networks.items():
        network.to(device).train()
        optimiser = torch.optim.AdamW(network.parameters(), lr=1e-6)
        steps[name] = (network, OptimWrapper(optimiser))
    batch = make_batch(args.batch, args.size, networks['plain'].num_classes)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(args.rounds + 2):
        # The order alternates: the second of a pair finds warmer caches.
        for name in sorted(steps, reverse=bool(round_ % 2)):
            network, optim_wrapper = steps[name]
            data = copy_batch(batch)
            begun = time.perf_counter()
            network.train_step(data, optim_wrapper)
            if device == 'cuda':
                torch.cuda.synchronize()
            if round_ >= 2:
                times[name].append(time.perf_counter() - begun)
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratios = [w / p for w, p in zip(times['wrapper'], times['plain'], strict=True)]
    print(f'{args.config}, {args.batch}x{args.size}x{args.size}, {device}, {args.rounds} rounds')
    print(f'mmseg_kd {mmseg_kd.__version__}, mmseg {mmseg.__version__}, torch {torch.__version__}')
    for name, seconds in medians.items():
        print(f'{name:<8} {seconds * 1000:8.1f} ms')
    print(f'ratio of the medians      {medians["wrapper"] / medians["plain"]:.3f}')
    print(f'median of the pair ratios {statistics.median(ratios):.3f}')


if __name__ == '__main__':
    main()
